package event

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Context is where feedback was given, as far as the request says. An empty string is unknown.
type Context struct {
	PageURL, Browser, BrowserVersion, OS, DeviceType, Locale, Country string
}

// Defaults are the values of members that a submission does not have. Empty ones are unknown.
type Defaults struct {
	Project, Widget string
	Context         Context
}

// Feedback is one valid submission, with its members in the order they came. It may refer to
// the bytes it was parsed from: do not change them before Release. It is not safe for
// concurrent use.
type Feedback struct{ tree }

var pool = sync.Pool{New: func() any { return new(Feedback) }}

// Release gives the memory of the feedback back. Do not use f afterwards.
func (f *Feedback) Release() {
	if cap(f.nodes) > 4096 {
		f.nodes = nil // do not keep the memory of a very large one
	}
	f.reset()
	pool.Put(f)
}

// Parse reads a submission from JSON. The error is a *Problem.
func Parse(body []byte) (*Feedback, error) {
	f, err := parseObject(body, maxDataDepth)
	if err != nil {
		return nil, err
	}
	if err := f.validate(); err != nil {
		f.Release()
		return nil, err
	}
	return f, nil
}

func parseObject(body []byte, depth int) (*Feedback, error) {
	f := pool.Get().(*Feedback)
	if err := f.parse(body, depth); err != nil {
		f.Release()
		return nil, err
	}
	if k := f.at(f.root).kind; k != object {
		f.Release()
		return nil, invalid(FieldError{"", fmt.Sprintf("the body is %s; feedback is an object", k)})
	}
	return f, nil
}

// Stored returns the feedback in a document that Document wrote.
func Stored(document []byte) (*Feedback, error) {
	f, err := parseObject(document, maxStoredDepth)
	if err != nil {
		return nil, fmt.Errorf("reading a stored event: %w", err)
	}
	data := f.member(f.root, "data")
	if data == none || f.at(data).kind != object {
		f.Release()
		return nil, fmt.Errorf("reading a stored event: %w", invalid(FieldError{"/data", "missing"}))
	}
	f.root = data
	return f, nil
}

// validate removes known members that are null and checks the others.
func (f *Feedback) validate() error {
	v := validator{t: &f.tree}
	v.data()
	if len(v.errors) > 0 {
		return invalid(v.errors...)
	}
	return nil
}

func (f *Feedback) get(name string) string {
	if r := f.member(f.root, name); r != none && f.at(r).kind == text {
		return string(f.at(r).value)
	}
	return ""
}

// AppendText appends a member that is text as a JSON string. If there is no such member it
// appends an empty string.
func (f *Feedback) AppendText(dst []byte, name string) []byte {
	if r := f.member(f.root, name); r != none && f.at(r).kind == text {
		return appendString(dst, f.at(r).value, f.at(r).verbatim)
	}
	return append(dst, `""`...)
}

// ID returns the feedback's id. It is empty if the feedback has none yet.
func (f *Feedback) ID() string { return f.get("id") }

// ProjectID returns the project that the feedback belongs to. It is empty if there is none.
func (f *Feedback) ProjectID() string { return f.get("projectId") }

// HasContext reports whether the context has all of these members.
func (f *Feedback) HasContext(names ...string) bool {
	ctx := f.member(f.root, "context")
	return !slices.ContainsFunc(names, func(name string) bool { return f.member(ctx, name) == none })
}

// Fill adds the members that the submission does not have.
func (f *Feedback) Fill(d Defaults) {
	f.fillText(f.root, "projectId", d.Project)
	f.fillText(f.root, "widgetId", d.Widget)
	c := d.Context
	if c == (Context{}) {
		return
	}
	ctx := f.member(f.root, "context")
	if ctx == none {
		ctx = f.add(node{kind: object})
		f.set(f.root, "context", ctx)
	}
	for _, m := range []struct{ name, value string }{
		{"pageUrl", c.PageURL}, {"browser", c.Browser}, {"browserVersion", c.BrowserVersion},
		{"os", c.OS}, {"deviceType", c.DeviceType}, {"locale", c.Locale}, {"country", c.Country},
	} {
		f.fillText(ctx, m.name, m.value)
	}
}

func (f *Feedback) newTime(t time.Time) ref {
	return f.add(node{kind: text, value: appendTime(make([]byte, 0, timeSize), t), verbatim: true})
}

func (f *Feedback) fillText(parent ref, name, value string) {
	if value != "" && f.member(parent, name) == none {
		f.set(parent, name, f.newText(strings.ToValidUTF8(value, "\uFFFD")))
	}
}

// Complete gives the feedback an id, the status "new" and a time of creation, as far as it has
// none. newID is NewID, except in tests.
func (f *Feedback) Complete(now time.Time, newID func(time.Time) string) {
	if f.member(f.root, "id") == none {
		f.set(f.root, "id", f.newText(newID(now)))
	}
	f.fillText(f.root, "status", "new")
	if f.member(f.root, "createdAt") == none {
		f.set(f.root, "createdAt", f.newTime(now))
	}
}

// Document returns the event document with this feedback as its data, in canonical form. The
// slice is the caller's. The error is a *Problem if the document has more than MaxDocument
// bytes.
func (f *Feedback) Document(t Type, now time.Time) ([]byte, error) {
	f.arrange()
	dst := append(make([]byte, 0, f.size()), `{"event":"`...)
	dst = append(dst, t...)
	dst = append(dst, `","timestamp":"`...)
	dst = appendTime(dst, now)
	dst = append(dst, `","data":`...)
	dst = f.append(dst, f.root)
	dst = append(dst, '}')
	if n := len(dst); n > MaxDocument {
		return nil, NewProblem(http.StatusUnprocessableEntity, fmt.Sprintf(
			"The finished event has %d bytes; receivers take at most %d. Shorten the message or the metadata.", n, MaxDocument))
	}
	return dst, nil
}

// size returns the length of the document in bytes, or a little less if strings need escapes.
func (f *Feedback) size() int {
	size := len(`{"event":"","timestamp":"","data":}`) + len(Created) + timeSize
	for i := range f.nodes {
		size += len(f.nodes[i].name) + len(f.nodes[i].value) + len(`"":"",`)
	}
	return size
}

// arrange puts the known members first, in their order.
func (f *Feedback) arrange() {
	f.orderMembers(f.root, dataMembers)
	ctx := f.member(f.root, "context")
	if ctx == none {
		return
	}
	f.orderMembers(ctx, contextMembers)
	if v := f.member(ctx, "viewport"); v != none {
		f.orderMembers(v, viewportMembers)
	}
}

// Take removes a member that is not known and returns its text, or its JSON if it is not a
// string. It is for fields that the intake itself uses, such as a honeypot.
func (f *Feedback) Take(name string) (value string, ok bool) {
	if isKnown("", name) {
		return "", false
	}
	r := f.member(f.root, name)
	if r == none {
		return "", false
	}
	n := f.at(r)
	if n.kind == text {
		value = string(n.value)
	} else {
		value = string(f.append(nil, r))
	}
	f.remove(f.root, name)
	return value, true
}
