package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"unicode/utf8"
)

// decidedByApp are the members of new feedback that an application decides. The visitor
// decides the others.
var decidedByApp = []string{"id", "projectId", "widgetId", "status", "screenshotUrl", "createdAt"}

// Answer is feedback as an application's answer represents it. Its members are valid. A
// member that is null removes that of the feedback.
type Answer struct {
	feedback Feedback
	unread   []error // why members of the text are not in feedback
}

// ParseAnswer reads an application's answer to a submission that makes an event of type t. It
// returns nil if the text does not represent feedback. A text that does is a JSON object with
// an id, bare or under "data". The error, a *Problem, says why the id cannot be the id of
// feedback. If t is Created, only the members that the application decides are read. A text
// that breaks off is read to where it breaks off.
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

// ID returns the feedback's id.
func (a *Answer) ID() string { return a.feedback.ID() }

// ProjectID returns the project that the answer names, or an empty string.
func (a *Answer) ProjectID() string { return a.feedback.ProjectID() }

// Whole reports whether the answer is feedback by itself, that is, has a message.
func (a *Answer) Whole() bool { return a.feedback.get("message") != "" }

// Unread returns why members of the answer are in no event, or nil.
func (a *Answer) Unread() error { return errors.Join(a.unread...) }

// rawMember is a member whose value has not been checked.
type rawMember struct {
	name  string
	value json.RawMessage
}

// rawMembers reads the members of an object, and those of its member "data" if that is an
// object. It leaves out a member that breaks off.
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
		case t == Created && f.at(r).kind == null: // the application has not decided it
		default:
			members.set(r) // the last member of a name counts, as in JavaScript
		}
	}
	members.relink()
	if a.ID() == "" {
		return nil, nil // a second id was null
	}
	return a, nil
}

// read reads one member, without linking it. The error is a *Problem.
func (f *Feedback) read(m rawMember) (ref, error) {
	if m.name == "__proto__" {
		return none, unstable("/__proto__", "JavaScript drops a member of this name")
	}
	if !utf8.Valid(m.value) {
		return none, malformed("/"+m.name, "the text is not valid UTF-8")
	}
	if m.name == "id" && isNumber(m.value) {
		m.value = slices.Concat([]byte{'"'}, m.value, []byte{'"'}) // all its digits, however many
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
	v := validator{t: &f.tree}
	if v.member(r, m.name, ""); len(v.errors) > 0 {
		return none, invalid(v.errors...)
	}
	return r, nil
}

// Override replaces members of new feedback by those that an application's answer decides. A
// nil answer decides none.
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

// MergeAccepted applies a change that an application has accepted, then the application's
// answer, whose members replace those of the feedback. Either may be nil. The members of
// identity stay, whatever the two say. It reports whether anything has changed.
func (f *Feedback) MergeAccepted(p *Patch, a *Answer) (changed bool, err error) {
	return f.change(func() {
		if p != nil {
			f.merge(f.root, &p.tree, p.root)
		}
		if a != nil {
			f.replace(a)
		}
	})
}

// replace gives the feedback the members of an answer, and removes those that are null there.
// The message stays if it is null there: feedback has a message.
func (f *Feedback) replace(a *Answer) {
	members := f.membersOf(f.root)
	from := &a.feedback.tree
	for r := from.at(from.root).first; r != none; r = from.at(r).next {
		n := from.at(r)
		switch {
		case slices.Contains(identity, string(n.name)):
		case n.kind != null:
			members.set(f.adopt(from, r))
		case string(n.name) != "message":
			members.remove(n.name)
		}
	}
	members.relink()
}

// Represented returns the feedback that a whole answer represents, with those members of a
// change that the answer does not have. The change may be nil. The error is a *Problem.
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

// Patch returns the feedback as a change to other feedback. It shares the memory of f and is
// valid until f is released.
func (f *Feedback) Patch() *Patch { return &Patch{f.tree} }

// RemoveID removes the id, so that Complete makes a new one.
func (f *Feedback) RemoveID() { f.remove(f.root, "id") }

// Rename gives the feedback another id.
func (f *Feedback) Rename(id string) { f.set(f.root, "id", f.newText(id)) }
