package console

import (
	"context"
	"net/http"
	"slices"
	"strings"
)

// New returns the console: its pages, and below /api/ the API they are made
// of. Paths are relative; links in the pages are too, so that it works wherever
// it is mounted.
func New(o Options) http.Handler {
	a := newAPI(o)
	mux := http.NewServeMux()
	mux.Handle("/api/", http.StripPrefix("/api", a.handler()))
	mux.Handle("/", newPages(a))
	return mux
}

// areas are the first segments of the console's paths.
var areas = []string{"webhooks", "add", "events", "deliveries", "activity", "api", "assets"}

// Locate cuts the mount point off a path from which nobody has: what is left
// begins with one of the console's own segments, or is its index, "/". It is
// false for a path that is neither; a slash at its end would make it the index.
func Locate(path string) (inside string, ok bool) {
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for i, s := range segments {
		if slices.Contains(areas, s) || s == "" && i == len(segments)-1 {
			return "/" + strings.Join(segments[i:], "/"), true
		}
	}
	return "", false
}

// userKey is where a request's context holds who sent it.
type userKey struct{}

// WithUser notes who sends a request, for the activity log.
func WithUser(r *http.Request, name string) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), userKey{}, name))
}

// userOf is who sent a request; what comes over the admin endpoint has no name
// but that.
func userOf(r *http.Request) string {
	if name, _ := r.Context().Value(userKey{}).(string); name != "" {
		return name
	}
	return "admin"
}
