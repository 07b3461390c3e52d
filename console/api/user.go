package api

import (
	"context"
	"net/http"
)

// userKey is the key of a request's user in its context.
type userKey struct{}

// WithUser returns a request with the name of its user, for the activity log.
func WithUser(r *http.Request, name string) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), userKey{}, name))
}

// UserOf returns the user of a request: the name that WithUser set, or "admin", for
// the admin endpoint.
func UserOf(r *http.Request) string {
	if name, _ := r.Context().Value(userKey{}).(string); name != "" {
		return name
	}
	return "admin"
}
