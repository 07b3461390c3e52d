package caddymodule

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// cors says which pages of other origins may submit, by the Fetch Standard's
// CORS protocol. Credentials are never allowed: feedback needs no cookies.
type cors struct {
	any     bool
	origins map[string][]string // the header value by origin; nil where none are allowed
}

var (
	anyOrigin      = []string{"*"}
	varyOrigin     = []string{"Origin"}
	corsMethods    = []string{"POST, PATCH, PUT"}
	corsHeaders    = []string{"Content-Type, Idempotency-Key, Authorization"}
	corsExposed    = []string{"Idempotency-Replayed, Retry-After"}
	corsMaxAge     = []string{"7200"} // seconds; the most that Chromium keeps
	varyPreflights = []string{"Access-Control-Request-Method, Access-Control-Request-Headers"}
)

// newCORS checks the origins: `*`, or scheme, host and port as browsers send
// them.
func newCORS(origins []string) (cors, error) {
	var c cors
	for _, origin := range origins {
		if origin == "*" {
			c.any = true
			continue
		}
		u, err := url.Parse(origin)
		if err != nil || u.Scheme == "" || u.Host == "" || u.User != nil || strings.TrimPrefix(origin, u.Scheme+"://") != u.Host {
			return cors{}, fmt.Errorf("allow_origin: %q is no origin; write scheme and host, such as https://app.example.com", origin)
		}
		if c.origins == nil {
			c.origins = make(map[string][]string)
		}
		origin = strings.ToLower(origin)
		c.origins[origin] = []string{origin}
	}
	return c, nil
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
		h["Access-Control-Allow-Origin"] = anyOrigin
		h["Access-Control-Expose-Headers"] = corsExposed
		return
	}
	if c.origins == nil {
		return
	}
	if existing := h["Vary"]; existing == nil {
		h["Vary"] = varyOrigin
	} else {
		h.Add("Vary", "Origin")
	}
	if value, ok := c.origins[request.Get("Origin")]; ok {
		h["Access-Control-Allow-Origin"] = value
		h["Access-Control-Expose-Headers"] = corsExposed
	}
}

// isPreflight tells a browser's question from any other OPTIONS request.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}

// preflight answers OPTIONS. An origin that is not allowed gets an answer
// without permissions, which the browser understands.
func (c *cors) preflight(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h["Allow"] = allowedMethods
	if isPreflight(r) && h["Access-Control-Allow-Origin"] != nil {
		h["Access-Control-Allow-Methods"] = corsMethods
		h["Access-Control-Allow-Headers"] = corsHeaders
		h["Access-Control-Max-Age"] = corsMaxAge
		h.Add("Vary", varyPreflights[0])
	}
	w.WriteHeader(http.StatusNoContent)
}
