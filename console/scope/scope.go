// Package scope bounds what a console and its API show and change: everything, or the
// feedback of some projects and the webhooks that get nothing else.
//
// It promises that a scoped console answers about what belongs to other projects as if
// it did not exist, whether it is named by id, by name, by cursor or by search. Pages
// and API read and change only through a View and its Reader, so that a new page or
// request is bounded too. The package does not know HTTP.
package scope

import (
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"slices"
	"strings"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

// Scope is what a console may show and change. The zero value is everything.
type Scope struct {
	// Projects are the projects whose feedback the scope has; empty for all. A scope with
	// projects also has the webhooks whose own projects are not empty and all among
	// these.
	Projects []string
	// ReadOnly means that nothing can be changed.
	ReadOnly bool
}

// longestKey bounds a scope's key in bytes, because it is part of names.
const longestKey = 64

// Key identifies a scope by its projects; empty for all. It has no white space, and of
// the characters that URLs reserve only $ & + : = @ and the comma.
func (s Scope) Key() string {
	if len(s.Projects) == 0 {
		return ""
	}
	projects := slices.Clone(s.Projects)
	slices.Sort(projects)
	projects = slices.Compact(projects)
	for i, p := range projects {
		projects[i] = url.PathEscape(p)
	}
	key := strings.Join(projects, ",")
	if len(key) > longestKey {
		hash := sha256.Sum256([]byte(key))
		return base64.RawURLEncoding.EncodeToString(hash[:])
	}
	return key
}

// View is what a scope shows and changes of a relay. Its methods do what those of
// relay.Relay do, within the scope: for what is outside, they return what they return
// for what does not exist. Names are those of the scope.
type View struct {
	scope Scope
	key   string
	relay *relay.Relay
}

// New returns the view of a scope.
func New(r *relay.Relay, s Scope) *View {
	if len(s.Projects) == 0 {
		s.Projects = nil
	}
	return &View{scope: s, key: s.Key(), relay: r}
}

// Reader returns what the scope shows of the relay's queue.
func (v *View) Reader() *Reader { return &Reader{view: v, queue: v.relay.Queue()} }

// Projects returns the projects of the scope; nil for all.
func (v *View) Projects() []string { return slices.Clone(v.scope.Projects) }

// Scoped reports whether the scope is less than everything.
func (v *View) Scoped() bool { return v.scope.Projects != nil }

// ReadOnly reports whether the scope changes nothing.
func (v *View) ReadOnly() bool { return v.scope.ReadOnly }

// Covers reports whether the view has all that another view of the relay has.
func (v *View) Covers(other *View) bool { return !v.Scoped() || v.key == other.key }

// hasProject reports whether the scope has the feedback of a project.
func (v *View) hasProject(project string) bool {
	return !v.Scoped() || slices.Contains(v.scope.Projects, project)
}

// hasAll reports whether the scope has what belongs to these projects; what belongs to
// none belongs to all.
func (v *View) hasAll(projects []string) bool {
	if !v.Scoped() {
		return true
	}
	return len(projects) > 0 && !slices.ContainsFunc(projects, func(p string) bool { return !v.hasProject(p) })
}

// has reports whether the scope has a webhook.
func (v *View) has(w relay.WebhookStatus) bool { return v.hasAll(w.Projects) }

// cursorTag is how many bytes of a hash bind a cursor to its scope.
const cursorTag = 9

// Bind returns a cursor that only this scope takes.
func (v *View) Bind(cursor string) string {
	if cursor == "" || !v.Scoped() {
		return cursor
	}
	return base64.RawURLEncoding.EncodeToString(append(v.tag(cursor), cursor...))
}

// Unbind returns the cursor that Bind got. The error is queue.ErrNotFound if the cursor
// is not of this scope.
func (v *View) Unbind(bound string) (string, error) {
	if bound == "" || !v.Scoped() {
		return bound, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(bound)
	if err != nil || len(b) <= cursorTag {
		return "", queue.ErrNotFound
	}
	cursor := string(b[cursorTag:])
	if string(v.tag(cursor)) != string(b[:cursorTag]) {
		return "", queue.ErrNotFound
	}
	return cursor, nil
}

func (v *View) tag(cursor string) []byte {
	hash := sha256.Sum256([]byte(v.key + "\n" + cursor))
	return hash[:cursorTag]
}
