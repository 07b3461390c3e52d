// Package console is the web console of the relay: pages over what package api
// shows and changes.
//
// It promises that everything works with links and forms alone, that a page has no
// state but its address, and that a form that is sent twice does its work once. It
// does not know who may look: it is mounted where that has been decided. Its tests
// use it as a browser without script does; those with a browser are in e2e/console.
package console

import (
	"net/http"
	"slices"
	"strings"

	"github.com/userhero/relay/console/api"
)

// New returns the console: its pages, and below /api/ the API they are made
// of. Paths are relative; links in the pages are too, so that it works wherever
// it is mounted.
func New(o api.Options) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/api/", http.StripPrefix("/api", api.New(o)))
	mux.Handle("/", newPages(o))
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
