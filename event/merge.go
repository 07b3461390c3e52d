package event

import (
	"bytes"
	"fmt"
	"slices"
)

// identity are the members that identify feedback. No change applies to them.
var identity = []string{"id", "projectId", "createdAt"}

// Patch is a change to feedback: members to set, or null to remove one.
type Patch struct{ tree }

// ParsePatch reads a change from JSON. The error is a *Problem.
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

// Project returns the project that the change names. named reports whether it names one: null
// names feedback without a project.
func (p *Patch) Project() (project string, named bool) {
	r := p.member(p.root, "projectId")
	if r == none {
		return "", false
	}
	return string(p.at(r).value), true
}

// Merge applies a change as RFC 7396 says, and reports whether anything has changed. The error
// is a *Problem if the change is to id, projectId or createdAt, or makes a member invalid.
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
	return f.change(func() { f.merge(f.root, &p.tree, p.root) })
}

// change calls apply, which changes the feedback, then validates it and puts its members in
// order. It reports whether anything has changed.
func (f *Feedback) change(apply func()) (changed bool, err error) {
	f.arrange()
	before := f.append(nil, f.root)
	apply()
	f.orderAll(f.root)
	if err := f.validate(); err != nil {
		return false, err
	}
	f.arrange()
	return !bytes.Equal(before, f.append(nil, f.root)), nil
}

// merge is MergePatch of RFC 7396 §2 for two objects. It leaves identity as it is.
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

// members are the members of one object while they change. Finding one takes the same time
// however many there are.
type members struct {
	tree   *tree
	parent ref
	refs   []ref          // in order; none is a member that was removed
	at     map[string]int // the place of a name in refs
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

// set replaces the member that has the name of node r, or adds r at the end.
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

// relink writes the members back to the object. Before that the object is unchanged.
func (m *members) relink() {
	m.tree.relink(m.parent, slices.DeleteFunc(m.refs, func(r ref) bool { return r == none }))
}
