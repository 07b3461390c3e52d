package event

import (
	"bytes"
	"fmt"
	"slices"
)

// identity are the members that say which feedback it is. No change reaches them.
var identity = []string{"id", "projectId", "createdAt"}

// Patch is a change to feedback: the members it carries, null to remove one.
type Patch struct{ tree }

// ParsePatch reads a change from JSON. Its errors are *Problem.
func ParsePatch(body []byte) (*Patch, error) {
	p := new(Patch)
	if err := p.parse(body, maxDataDepth); err != nil {
		return nil, err
	}
	if k := p.at(p.root).kind; k != object {
		return nil, invalid(FieldError{"", fmt.Sprintf("the body is %s; a change is an object", k)})
	}
	if p.at(p.root).first == none {
		return nil, invalid(FieldError{"", "the change has no members; give at least a status"})
	}
	return p, nil
}

// Project is the project that the change names; named reports whether it names
// one. Null names feedback without a project.
func (p *Patch) Project() (project string, named bool) {
	r := p.member(p.root, "projectId")
	if r == none {
		return "", false
	}
	return string(p.at(r).value), true
}

// Merge applies a change as RFC 7396 says and reports whether it changed
// anything. A change to a member of identity is an error.
func (f *Feedback) Merge(p *Patch) (changed bool, err error) {
	for _, name := range identity {
		r := p.member(p.root, name)
		if r == none {
			continue
		}
		value := p.at(r).value
		if at, ok := parseTime(value); ok && name == "createdAt" {
			value = appendTime(nil, at) // a client may know it to the millisecond
		}
		if string(value) != f.get(name) {
			return false, invalid(FieldError{"/" + name, "cannot be changed"})
		}
	}
	return f.MergeAccepted(p, nil)
}

// MergeAccepted applies a change that an application has accepted, then the
// application's answer, whose members replace those of the feedback. Either may
// be nil. Identity stays, whatever they say of it.
func (f *Feedback) MergeAccepted(p *Patch, a *Answer) (changed bool, err error) {
	f.arrange()
	before := f.append(nil, f.root)
	if p != nil {
		f.merge(f.root, &p.tree, p.root)
	}
	if a != nil {
		f.replace(a)
	}
	f.orderAll(f.root)
	if err := f.settle(); err != nil {
		return false, err
	}
	f.arrange()
	return !bytes.Equal(before, f.append(nil, f.root)), nil
}

// merge is MergePatch of RFC 7396 §2 for two objects.
func (f *Feedback) merge(target ref, p *tree, patch ref) {
	members := f.membersOf(target)
	for r := p.at(patch).first; r != none; r = p.at(r).next {
		n := p.at(r)
		switch {
		case target == f.root && slices.Contains(identity, string(n.name)):
		case n.kind == null:
			members.remove(n.name)
		case n.kind == object:
			old := members.get(n.name)
			if old == none || f.at(old).kind != object {
				old = f.add(node{kind: object, name: bytes.Clone(n.name), nameVerbatim: n.nameVerbatim})
				members.set(old)
			}
			f.merge(old, p, r)
		default:
			members.set(f.adopt(p, r))
		}
	}
	members.relink()
}

// replace gives the feedback the members of an answer; one that is null goes.
// The message stays if the answer has none: feedback without one is none.
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

// members are those of one object while many of them change: finding one takes
// the same time whatever their number.
type members struct {
	tree   *tree
	parent ref
	refs   []ref          // in their order; none is a removed one
	at     map[string]int // where a name stands in refs
}

func (t *tree) membersOf(parent ref) members {
	m := members{tree: t, parent: parent, at: make(map[string]int)}
	for r := t.at(parent).first; r != none; r = t.at(r).next {
		m.at[string(t.at(r).name)] = len(m.refs)
		m.refs = append(m.refs, r)
	}
	return m
}

// get returns the member of this name, or none.
func (m *members) get(name []byte) ref {
	if i, ok := m.at[string(name)]; ok {
		return m.refs[i]
	}
	return none
}

// set puts a named node in the place of the member of its name, else at the end.
func (m *members) set(r ref) {
	name := m.tree.at(r).name
	if i, ok := m.at[string(name)]; ok {
		m.refs[i] = r
		return
	}
	m.at[string(name)] = len(m.refs)
	m.refs = append(m.refs, r)
}

func (m *members) remove(name []byte) {
	if i, ok := m.at[string(name)]; ok {
		m.refs[i] = none
		delete(m.at, string(name))
	}
}

// relink gives the object its members. Until then they are as they were.
func (m *members) relink() {
	m.tree.relink(m.parent, slices.DeleteFunc(m.refs, func(r ref) bool { return r == none }))
}
