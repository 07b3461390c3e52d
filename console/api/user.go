package api

import (
	"context"
	"net/http"
)

// userKey is where a request's context holds who sent it.
type userKey struct{}

// WithUser notes who sends a request, for the activity log.
func WithUser(r *http.Request, name string) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), userKey{}, name))
}

// UserOf is who sent a request; what comes over the admin endpoint has no name
// but that.
func UserOf(r *http.Request) string {
	if name, _ := r.Context().Value(userKey{}).(string); name != "" {
		return name
	}
	return "admin"
}
