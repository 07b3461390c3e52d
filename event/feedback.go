package event

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// The known members of feedback, in the order documents have them. Members
// that are not known are kept, behind these.
var (
	dataMembers = []string{"id", "projectId", "widgetId", "message", "category", "rating", "status",
		"screenshotUrl", "context", "metadata", "createdAt"}
	contextMembers = []string{"pageUrl", "referrer", "browser", "browserVersion", "os", "deviceType",
		"viewport", "timezone", "locale", "country"}
	viewportMembers = []string{"width", "height"}
)

// Context is what is known of where feedback was given; an empty string or zero
// is unknown.
type Context struct {
	PageURL, Referrer, Browser, BrowserVersion, OS, DeviceType string
	ViewportWidth, ViewportHeight                              int // CSS pixels
	Timezone, Locale, Country                                  string
}

// Defaults are filled in where a submission has nothing.
type Defaults struct {
	Project, Widget string
	Context         Context
}

// Feedback is one submission: valid, with members in the order they came. It
// may refer to the bytes it was parsed from, which must stay as they are until
// Release. It is not safe for concurrent use.
type Feedback struct{ tree }

var pool = sync.Pool{New: func() any { return new(Feedback) }}

// Release gives the feedback's memory back; it must not be used afterwards.
func (f *Feedback) Release() {
	if cap(f.nodes) > 4096 {
		f.nodes = nil // do not keep the memory of a monster
	}
	f.reset()
	pool.Put(f)
}

// Parse reads a submission from JSON. Its errors are *Problem.
func Parse(body []byte) (*Feedback, error) {
	f, err := parseObject(body, maxDataDepth)
	if err != nil {
		return nil, err
	}
	if err := f.settle(); err != nil {
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

// Stored takes the feedback back out of a document that Document wrote.
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

// settle drops known members that are null, validates the others and puts them
// into their order.
func (f *Feedback) settle() error {
	v := validator{f: f}
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

// AppendText appends a member that is text as a JSON string; an empty one where
// there is none.
func (f *Feedback) AppendText(dst []byte, name string) []byte {
	if r := f.member(f.root, name); r != none && f.at(r).kind == text {
		return appendString(dst, f.at(r).value, f.at(r).verbatim)
	}
	return append(dst, `""`...)
}

// ID is the feedback's id; empty where it has none yet.
func (f *Feedback) ID() string { return f.get("id") }

// ProjectID is the project it belongs to; empty where unknown.
func (f *Feedback) ProjectID() string { return f.get("projectId") }

// Status is the feedback's status; empty where it has none yet.
func (f *Feedback) Status() string { return f.get("status") }

// CreatedAt is when it was given, as documents write it; empty where unknown.
func (f *Feedback) CreatedAt() string { return f.get("createdAt") }

// HasContext tells whether the context has all of these members, so that nobody
// need look for them elsewhere.
func (f *Feedback) HasContext(names ...string) bool {
	ctx := f.member(f.root, "context")
	return !slices.ContainsFunc(names, func(name string) bool { return f.member(ctx, name) == none })
}

// Fill fills in what the submission does not have.
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
		{"pageUrl", c.PageURL}, {"referrer", c.Referrer}, {"browser", c.Browser}, {"browserVersion", c.BrowserVersion},
		{"os", c.OS}, {"deviceType", c.DeviceType}, {"timezone", c.Timezone}, {"locale", c.Locale}, {"country", c.Country},
	} {
		f.fillText(ctx, m.name, m.value)
	}
	if c.ViewportWidth > 0 && c.ViewportHeight > 0 && f.member(ctx, "viewport") == none {
		v := f.add(node{kind: object})
		f.set(v, "width", f.newInt(c.ViewportWidth))
		f.set(v, "height", f.newInt(c.ViewportHeight))
		f.set(ctx, "viewport", v)
	}
}

func (f *Feedback) newInt(n int) ref {
	return f.add(node{kind: number, value: fmt.Append(nil, n)})
}

func (f *Feedback) newTime(t time.Time) ref {
	return f.add(node{kind: text, value: appendTime(make([]byte, 0, timeSize), t), verbatim: true})
}

func (f *Feedback) fillText(parent ref, name, value string) {
	if value != "" && f.member(parent, name) == none {
		f.set(parent, name, f.newText(strings.ToValidUTF8(value, "\uFFFD")))
	}
}

// Complete gives the feedback an id, the status "new" and a time of creation
// where it has none.
func (f *Feedback) Complete(now time.Time, newID func(time.Time) string) {
	if f.member(f.root, "id") == none {
		f.set(f.root, "id", f.newText(newID(now)))
	}
	f.fillText(f.root, "status", "new")
	if f.member(f.root, "createdAt") == none {
		f.set(f.root, "createdAt", f.newTime(now))
	}
}

// Document is the event document with this feedback as its data, in canonical
// form; the slice is the caller's. A *Problem says when it is too large.
func (f *Feedback) Document(t Type, now time.Time) ([]byte, error) {
	return f.AppendDocument(nil, t, now)
}

// AppendDocument appends what Document returns.
func (f *Feedback) AppendDocument(dst []byte, t Type, now time.Time) ([]byte, error) {
	f.arrange()
	start := len(dst)
	if dst == nil {
		dst = make([]byte, 0, f.size())
	}
	dst = append(dst, `{"event":"`...)
	dst = append(dst, t...)
	dst = append(dst, `","timestamp":"`...)
	dst = appendTime(dst, now)
	dst = append(dst, `","data":`...)
	dst = f.append(dst, f.root)
	dst = append(dst, '}')
	if n := len(dst) - start; n > MaxDocument {
		return nil, NewProblem(http.StatusUnprocessableEntity, fmt.Sprintf(
			"The finished event has %d bytes; receivers take at most %d. Shorten the message or the metadata.", n, MaxDocument))
	}
	return dst, nil
}

// size is how long the document is, or a little less where strings hold what
// must be escaped.
func (f *Feedback) size() int {
	size := len(`{"event":"","timestamp":"","data":}`) + len(Created) + timeSize
	for i := range f.nodes {
		size += len(f.nodes[i].name) + len(f.nodes[i].value) + len(`"":"",`)
	}
	return size
}

// arrange puts the known members in their order.
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

func known(parent string) []string {
	switch parent {
	case "":
		return dataMembers
	case "/context":
		return contextMembers
	case "/context/viewport":
		return viewportMembers
	}
	return nil
}

// isKnown tells whether a member of data, context or viewport is documented.
func isKnown(parent, name string) bool { return slices.Contains(known(parent), name) }

// Take removes a member that is not documented and returns its text; other
// values than strings count as their JSON. It is for fields that a form has for
// the intake's own use.
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
