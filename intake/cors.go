package intake

import (
	"fmt"
	"net/http"
	"strings"

	whatwg "github.com/nlnwa/whatwg-url/url"
)

// cors says which pages of other origins may submit, by the Fetch Standard's
// CORS protocol. Credentials are never allowed: feedback needs no cookies.
type cors struct {
	any     bool
	origins map[string]bool // nil where none are allowed
}

const (
	corsMethods    = "POST, PATCH, PUT"
	corsExposed    = "Idempotency-Replayed, Retry-After"
	corsMaxAge     = "7200" // seconds; the most that Chromium keeps
	varyPreflights = "Access-Control-Request-Method, Access-Control-Request-Headers"
)

// newCORS checks the origins: `*`, or scheme, host and port. They are kept as
// browsers send them: in lower case, an international name in its ASCII form, the
// scheme's own port left out.
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

// originOf is an origin as browsers serialise it
// (https://html.spec.whatwg.org/#ascii-serialisation-of-an-origin).
func originOf(written string) (string, error) {
	u, err := whatwg.Parse(written)
	_, rest, ok := strings.Cut(written, "://")
	if err != nil || !ok || rest == "" || strings.ContainsAny(rest, "/\\?#@") || u.Host() == "" {
		return "", fmt.Errorf("allow_origin: %q is no origin; write scheme and host, such as https://app.example.com", written)
	}
	return u.Protocol() + "//" + strings.ToLower(u.Host()), nil // the case of app://Host stays in a URL, not in an origin
}

// configured tells whether the handler speaks CORS at all.
func (c *cors) configured() bool { return c.any || c.origins != nil }

// allow sets what lets the page read the answer, unless an app behind has said
// so itself. The answer differs by origin unless all are allowed, so caches
// must know.
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

// isPreflight tells a browser's question from any other OPTIONS request.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}

// preflight answers OPTIONS. An origin that is allowed may send whatever header
// it asks for: tracing adds its own to every request of a page, and a page that
// may submit gains nothing by another header. An origin that is not allowed gets
// an answer without permissions, which the browser understands.
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
