package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"unicode/utf8"
)

// decidedByApp are the members of new feedback that an application decides.
// The others are the visitor's words.
var decidedByApp = []string{"id", "projectId", "widgetId", "status", "screenshotUrl", "createdAt"}

// Answer is feedback as an application's answer represents it. Its members are
// valid; a null one says that the feedback has none.
type Answer struct {
	feedback Feedback
	unread   []error
}

// ParseAnswer reads what an application answered to a submission that makes an
// event of type t. It returns nil if that is no representation of feedback: a
// JSON object with an id, bare or under "data". The error says why the id cannot
// be that of feedback. Of an answer to a creation only the members that the
// application decides are read. A text that breaks off is read up to there.
func ParseAnswer(text []byte, t Type) (*Answer, error) {
	text = bytes.TrimPrefix(text, []byte("\uFEFF"))
	object, data := rawMembers(text)
	if hasID(data) {
		return newAnswer(data, t)
	}
	if hasID(object) {
		return newAnswer(object, t)
	}
	return nil, nil
}

// ID is the feedback's id.
func (a *Answer) ID() string { return a.feedback.ID() }

// ProjectID is the project that the answer names, if it does.
func (a *Answer) ProjectID() string { return a.feedback.ProjectID() }

// Whole reports whether the answer is feedback by itself: it has a message.
func (a *Answer) Whole() bool { return a.feedback.get("message") != "" }

// Unread says why members of the answer are in no event.
func (a *Answer) Unread() error { return errors.Join(a.unread...) }

// rawMember is a member whose value nobody has judged.
type rawMember struct {
	name  string
	value json.RawMessage
}

// rawMembers reads the members of an object, and those of its member "data" if
// that is an object. A member that breaks off is not among them.
func rawMembers(text []byte) (object, data []rawMember) {
	d := json.NewDecoder(bytes.NewReader(text))
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return nil, nil
	}
	for d.More() {
		token, err := d.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			break
		}
		if name == "data" {
			data, _ = rawMembers(bytes.TrimLeft(text[d.InputOffset():], " \t\r\n:"))
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			break
		}
		object = append(object, rawMember{name, value})
	}
	return object, data
}

func hasID(object []rawMember) bool {
	return slices.ContainsFunc(object, func(m rawMember) bool {
		return m.name == "id" && (m.value[0] == '"' || isNumber(m.value))
	})
}

func isNumber(value []byte) bool { return value[0] == '-' || value[0] >= '0' && value[0] <= '9' }

func newAnswer(raw []rawMember, t Type) (*Answer, error) {
	a := new(Answer)
	f := &a.feedback
	f.root = f.add(node{kind: object})
	members := f.membersOf(f.root)
	for _, m := range raw {
		if t == Created && !slices.Contains(decidedByApp, m.name) {
			continue
		}
		r, err := f.read(m)
		switch {
		case err != nil && m.name == "id":
			return nil, err
		case err != nil:
			a.unread = append(a.unread, err)
		case t == Created && f.at(r).kind == null: // it has decided nothing
		default:
			members.set(r) // the last of a name counts, as in JavaScript
		}
	}
	members.relink()
	if a.ID() == "" {
		return nil, nil // a null came after it
	}
	return a, nil
}

// read reads one member, which is not linked yet. The error is a *Problem.
func (f *Feedback) read(m rawMember) (ref, error) {
	if m.name == "__proto__" {
		return none, unstable("/__proto__", "a member of this name vanishes in JavaScript")
	}
	if !utf8.Valid(m.value) {
		return none, malformed("/"+m.name, "the text is not valid UTF-8")
	}
	if m.name == "id" && isNumber(m.value) {
		m.value = slices.Concat([]byte{'"'}, m.value, []byte{'"'}) // its digits, however many
	}
	p := parser{tree: &f.tree, in: m.value, depth: maxDataDepth, path: []segment{{name: bytesOf(m.name)}}}
	r, err := p.value(1) // it stands in an object
	if err != nil {
		return none, err
	}
	n := f.at(r)
	n.name = bytesOf(m.name)
	n.nameVerbatim = verbatim(n.name)
	if n.kind == null || !isKnown("", m.name) {
		return r, nil
	}
	v := validator{f: f}
	if v.member(r, m.name, ""); len(v.errors) > 0 {
		return none, invalid(v.errors...)
	}
	return r, nil
}

// Override lets an application's answer win over new feedback. Nil changes
// nothing.
func (f *Feedback) Override(a *Answer) {
	if a == nil {
		return
	}
	from := &a.feedback.tree
	for r := from.at(from.root).first; r != none; r = from.at(r).next {
		if n := from.at(r); n.kind != null && slices.Contains(decidedByApp, string(n.name)) {
			f.set(f.root, string(n.name), f.adopt(from, r))
		}
	}
}

// Represented is the feedback that a whole answer represents. The members of a
// change that the answer does not have are added; the change may be nil.
func Represented(a *Answer, p *Patch) (*Feedback, error) {
	f := pool.Get().(*Feedback)
	f.reset()
	f.root = f.add(node{kind: object})
	f.Override(a)
	if _, err := f.MergeAccepted(p, a); err != nil {
		f.Release()
		return nil, err
	}
	return f, nil
}

// Patch returns the feedback as a change to feedback that exists already. It
// shares the memory of f and is valid until Release.
func (f *Feedback) Patch() *Patch { return &Patch{f.tree} }

// RemoveID removes the id, so that Complete gives a new one.
func (f *Feedback) RemoveID() { f.remove(f.root, "id") }
