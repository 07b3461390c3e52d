package event

import (
	"bytes"
	"cmp"
	"slices"
	"strconv"
	"unsafe"
)

// kind is the type of a JSON value.
type kind uint8

const (
	null kind = iota
	boolean
	number
	text
	array
	object
)

func (k kind) String() string {
	return [...]string{"null", "a boolean", "a number", "a string", "an array", "an object"}[k]
}

// node is one value of a document. The nodes of a document are in one slice and refer to each
// other by index, so a document of any size takes a few allocations.
type node struct {
	kind kind
	// verbatim and nameVerbatim: the value, a string, or the name needs no escape.
	verbatim, nameVerbatim bool
	next                   ref // the next member or element
	first, last            ref // of an array or object
	name                   []byte
	// value is a string's UTF-8, a number as ECMAScript prints it, or the
	// literals true and false.
	value []byte
}

// ref is the index of a node, or none.
type ref int32

const none ref = -1

// segment is one step of a path: a member's name, or an element's number.
type segment struct {
	name  []byte
	index int
}

// tree is a document. Its byte slices belong to the input or to the tree.
type tree struct {
	nodes []node
	root  ref
	path  []segment // the parser's; empty, kept for its memory
}

func (t *tree) reset() {
	clear(t.nodes)
	clear(t.path[:cap(t.path)])
	t.nodes, t.root = t.nodes[:0], none
}

func (t *tree) at(r ref) *node { return &t.nodes[r] }

func (t *tree) add(n node) ref {
	n.next, n.first, n.last = none, none, none
	t.nodes = append(t.nodes, n)
	return ref(len(t.nodes) - 1)
}

// link appends a member or element.
func (t *tree) link(parent, child ref) {
	p := t.at(parent)
	if p.last == none {
		p.first = child
	} else {
		t.at(p.last).next = child
	}
	p.last = child
}

// member returns a member of an object, or none.
func (t *tree) member(parent ref, name string) ref {
	if parent == none || t.at(parent).kind != object {
		return none
	}
	for r := t.at(parent).first; r != none; r = t.at(r).next {
		if string(t.at(r).name) == name {
			return r
		}
	}
	return none
}

// remove removes a member from an object.
func (t *tree) remove(parent ref, name string) {
	before := none
	for r := t.at(parent).first; r != none; before, r = r, t.at(r).next {
		if string(t.at(r).name) != name {
			continue
		}
		next := t.at(r).next
		if before == none {
			t.at(parent).first = next
		} else {
			t.at(before).next = next
		}
		if next == none {
			t.at(parent).last = before
		}
		return
	}
}

// set gives a member a value, in its place if it exists, else at the end. The value is a node
// that is not linked yet.
func (t *tree) set(parent ref, name string, value ref) {
	if r := t.member(parent, name); r != none {
		n, v := t.at(r), t.at(value)
		n.kind, n.verbatim, n.value, n.first, n.last = v.kind, v.verbatim, v.value, v.first, v.last
		return
	}
	v := t.at(value)
	v.name = bytesOf(name)
	v.nameVerbatim = verbatim(v.name)
	t.link(parent, value)
}

// bytesOf returns the bytes of a string without a copy: names and values of nodes are never
// written to.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// newText makes a string node.
func (t *tree) newText(s string) ref {
	b := bytesOf(s)
	return t.add(node{kind: text, value: b, verbatim: verbatim(b)})
}

// adopt copies a value of another tree, without linking it.
func (t *tree) adopt(o *tree, r ref) ref {
	src := *o.at(r)
	n := t.add(node{
		kind: src.kind, verbatim: src.verbatim, nameVerbatim: src.nameVerbatim,
		name: bytes.Clone(src.name), value: bytes.Clone(src.value),
	})
	for c := src.first; c != none; c = o.at(c).next {
		t.link(n, t.adopt(o, c))
	}
	return n
}

// arrayIndex reads a member name that ECMAScript orders as an array index: a canonical number
// up to 2^32-2 (ECMA-262 §10.1.11.1).
func arrayIndex(name []byte) (uint32, bool) {
	if len(name) == 0 || len(name) > 10 || name[0] == '0' && len(name) > 1 {
		return 0, false
	}
	for _, c := range name {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(string(name), 10, 32)
	return uint32(n), err == nil && n < 1<<32-1
}

// order puts the members of one object into ECMAScript's order: array indexes ascending, then
// the other members as they came.
func (t *tree) order(parent ref) {
	type indexed struct {
		index uint32
		ref   ref
	}
	var indexes []indexed
	n := 0
	for r := t.at(parent).first; r != none; r = t.at(r).next {
		n++
		if i, ok := arrayIndex(t.at(r).name); ok {
			indexes = append(indexes, indexed{i, r})
		}
	}
	if len(indexes) == 0 {
		return
	}
	slices.SortFunc(indexes, func(a, b indexed) int { return cmp.Compare(a.index, b.index) }) // Promise 2: the bytes are those that V8 writes, so receivers that sign JSON.stringify(body) agree.
	members := make([]ref, 0, n)
	for _, i := range indexes {
		members = append(members, i.ref)
	}
	for r := t.at(parent).first; r != none; r = t.at(r).next {
		if _, ok := arrayIndex(t.at(r).name); !ok {
			members = append(members, r)
		}
	}
	t.relink(parent, members)
}

// orderAll does the same in a value and all values below it.
func (t *tree) orderAll(r ref) {
	if t.at(r).kind == object {
		t.order(r)
	}
	for c := t.at(r).first; c != none; c = t.at(c).next {
		t.orderAll(c)
	}
}

// maxKnown is the length of the longest table of known members.
const maxKnown = 11

// find returns the known members of an object, in the order of the table. A member that the
// object does not have is none.
func (t *tree) find(parent ref, known []string) (at [maxKnown]ref) {
	for i := range at {
		at[i] = none
	}
	i := 0 // most objects have the table's order
	for r := t.at(parent).first; r != none; r = t.at(r).next {
		name := t.at(r).name
		for range known {
			here := i
			if i++; i == len(known) {
				i = 0
			}
			if known[here] == string(name) {
				at[here] = r
				break
			}
		}
	}
	return at
}

// orderMembers puts the known members first, in the order of the table, and then the other
// members as they came. Array indexes come before all.
func (t *tree) orderMembers(parent ref, known []string) {
	at := t.find(parent, known)
	all := make([]ref, 0, 2*maxKnown)
	for _, r := range at {
		if r != none {
			all = append(all, r)
		}
	}
	for r := t.at(parent).first; r != none; r = t.at(r).next {
		if !slices.Contains(at[:], r) {
			all = append(all, r)
		}
	}
	t.relink(parent, all)
	t.order(parent)
}

// relink gives an object these members.
func (t *tree) relink(parent ref, members []ref) {
	p := t.at(parent)
	p.first, p.last = none, none
	for _, r := range members {
		t.at(r).next = none
		t.link(parent, r)
	}
}
