package intake

import (
	"fmt"
	"net/http"
	"strings"

	whatwg "github.com/nlnwa/whatwg-url/url"
)

// cors tells browsers which pages of other origins may submit, by the CORS protocol of the
// Fetch Standard. Credentials are never allowed: feedback needs no cookies.
type cors struct {
	any     bool
	origins map[string]bool // nil if none is allowed
}

// Values of header fields. Set them with Header.Set, which makes a slice for each answer:
// Caddy's header directive edits the slices of an answer in place.
const (
	allowedMethods = "POST, PATCH, PUT, OPTIONS"
	corsMethods    = "POST, PATCH, PUT"
	corsExposed    = "Idempotency-Replayed, Retry-After"
	corsMaxAge     = "7200" // seconds; the most that Chromium keeps
	varyPreflights = "Access-Control-Request-Method, Access-Control-Request-Headers"
)

// newCORS checks the origins: `*`, or scheme, host and port. It keeps them as browsers send
// them: in lower case, an international name in its ASCII form, without the scheme's
// default port.
func newCORS(origins []string) (cors, error) {
	var c cors
	for _, origin := range origins {
		if origin == "*" {
			c.any = true
			continue
		}
		serialized, err := originOf(origin)
		if err != nil {
			return cors{}, err
		}
		if c.origins == nil {
			c.origins = make(map[string]bool)
		}
		c.origins[serialized] = true
	}
	return c, nil
}

// CheckOrigins returns an error if one of them cannot be in Config.AllowOrigins.
func CheckOrigins(origins []string) error {
	_, err := newCORS(origins)
	return err
}

// originOf returns an origin as browsers serialise it
// (https://html.spec.whatwg.org/#ascii-serialisation-of-an-origin).
func originOf(written string) (string, error) {
	u, err := whatwg.Parse(written)
	_, rest, ok := strings.Cut(written, "://")
	if err != nil || !ok || rest == "" || strings.ContainsAny(rest, "/\\?#@") || u.Host() == "" {
		return "", fmt.Errorf("allow_origin: %q is not an origin; write scheme and host, such as https://app.example.com", written)
	}
	return u.Protocol() + "//" + strings.ToLower(u.Host()), nil // the case of app://Host stays in a URL, not in an origin
}

// configured reports whether any origin is allowed.
func (c *cors) configured() bool { return c.any || c.origins != nil }

// allow lets the page read the answer, unless the app behind has decided that itself. Vary
// tells caches that the answer depends on the origin, unless all origins are allowed.
func (c *cors) allow(h, request http.Header) {
	if h["Access-Control-Allow-Origin"] != nil {
		return
	}
	if c.any {
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Access-Control-Expose-Headers", corsExposed)
		return
	}
	if c.origins == nil {
		return
	}
	h.Add("Vary", "Origin")
	if origin := request.Get("Origin"); c.origins[origin] {
		h.Set("Access-Control-Allow-Origin", origin)
		h.Set("Access-Control-Expose-Headers", corsExposed)
	}
}

// isPreflight reports whether an OPTIONS request is a browser's preflight.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}

// preflight answers OPTIONS. An allowed origin may send any header it asks for: tracing adds
// headers to every request of a page, and a page that may submit gains nothing by another
// header. Another origin gets an answer without permissions, which the browser understands.
func (c *cors) preflight(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Allow", allowedMethods)
	if isPreflight(r) && h["Access-Control-Allow-Origin"] != nil {
		h.Set("Access-Control-Allow-Methods", corsMethods)
		if asked := r.Header.Values("Access-Control-Request-Headers"); len(asked) > 0 {
			h.Set("Access-Control-Allow-Headers", strings.Join(asked, ", "))
		}
		h.Set("Access-Control-Max-Age", corsMaxAge)
		h.Add("Vary", varyPreflights)
	}
	w.WriteHeader(http.StatusNoContent)
}
