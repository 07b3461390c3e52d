package event

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// parser reads JSON (RFC 8259) into a tree and refuses values that JavaScript would change.
type parser struct {
	tree *tree
	in   []byte
	pos  int
	// depth is how many levels the text may have.
	depth int
	// path is that of the value being read, for pointers.
	path []segment
}

// manyMembers is how many members an object has before duplicates are looked up in a map.
const manyMembers = 16

// parse reads a whole text that has at most depth levels. The tree's strings may be slices of
// the text.
func (t *tree) parse(in []byte, depth int) error {
	t.reset()
	if !utf8.Valid(in) {
		return malformed("", "the text is not valid UTF-8")
	}
	p := parser{tree: t, in: in, depth: depth, path: t.path}
	p.space()
	root, err := p.value(0)
	if err != nil {
		return err
	}
	p.space()
	if p.pos < len(in) {
		return p.malformed("something follows the value")
	}
	t.root, t.path = root, p.path
	return nil
}

func (p *parser) pointer() string {
	var b strings.Builder
	for _, s := range p.path {
		b.WriteByte('/')
		if s.name != nil {
			b.WriteString(escapePointer.Replace(string(s.name)))
		} else {
			b.WriteString(strconv.Itoa(s.index))
		}
	}
	return b.String()
}

func (p *parser) malformed(what string) error {
	return malformed(p.pointer(), fmt.Sprintf("%s, at byte %d", what, p.pos))
}

// malformedParent is malformed for an error between members or elements.
func (p *parser) malformedParent(what string) error {
	p.path = p.path[:len(p.path)-1]
	return p.malformed(what)
}

func (p *parser) unstable(what string) error { return unstable(p.pointer(), what) }

func (p *parser) space() {
	for p.pos < len(p.in) {
		switch p.in[p.pos] {
		case ' ', '\t', '\n', '\r':
			p.pos++
		default:
			return
		}
	}
}

func (p *parser) value(depth int) (ref, error) {
	if p.pos >= len(p.in) {
		return none, p.malformed("the text ends before a value")
	}
	switch c := p.in[p.pos]; {
	case c == '{':
		return p.object(depth + 1)
	case c == '[':
		return p.array(depth + 1)
	case c == '"':
		s, verbatim, err := p.string()
		return p.tree.add(node{kind: text, value: s, verbatim: verbatim}), err
	case c == '-' || c >= '0' && c <= '9':
		n, err := p.number()
		return p.tree.add(node{kind: number, value: n}), err
	case p.literal("true"), p.literal("false"):
		word := "true"
		if c == 'f' {
			word = "false"
		}
		p.pos += len(word)
		return p.tree.add(node{kind: boolean, value: p.in[p.pos-len(word) : p.pos]}), nil
	case p.literal("null"):
		p.pos += 4
		return p.tree.add(node{kind: null}), nil
	}
	return none, p.malformed("this is not the beginning of a value")
}

func (p *parser) literal(word string) bool {
	return bytes.HasPrefix(p.in[p.pos:], bytesOf(word))
}

func (p *parser) tooDeep(depth int) error {
	if depth > p.depth {
		return invalid(FieldError{p.pointer(), fmt.Sprintf("is nested too deep: a finished event has at most %d levels", MaxDepth)})
	}
	return nil
}

func (p *parser) array(depth int) (ref, error) {
	if err := p.tooDeep(depth); err != nil {
		return none, err
	}
	list := p.tree.add(node{kind: array})
	p.pos++
	p.space()
	if p.pos < len(p.in) && p.in[p.pos] == ']' {
		p.pos++
		return list, nil
	}
	p.path = append(p.path, segment{})
	for i := 0; ; i++ {
		p.path[len(p.path)-1].index = i
		p.space()
		v, err := p.value(depth)
		if err != nil {
			return none, err
		}
		p.tree.link(list, v)
		p.space()
		switch p.peek() {
		case ',':
			p.pos++
		case ']':
			p.pos++
			p.path = p.path[:len(p.path)-1]
			return list, nil
		default:
			return none, p.malformedParent("a comma or ] is missing")
		}
	}
}

func (p *parser) peek() byte {
	if p.pos < len(p.in) {
		return p.in[p.pos]
	}
	return 0
}

func (p *parser) object(depth int) (ref, error) {
	if err := p.tooDeep(depth); err != nil {
		return none, err
	}
	obj := p.tree.add(node{kind: object})
	p.pos++
	p.space()
	if p.peek() == '}' {
		p.pos++
		return obj, nil
	}
	indexed := false
	names := nameSet{tree: p.tree, object: obj}
	p.path = append(p.path, segment{name: []byte{}})
	for {
		p.space()
		if p.peek() != '"' {
			return none, p.malformedParent("the name of a member is missing")
		}
		// Until the name is read, errors point at the object.
		path := p.path
		p.path = path[:len(path)-1]
		name, verbatim, err := p.string()
		p.path = path
		if err != nil {
			return none, err
		}
		p.path[len(p.path)-1].name = name
		if string(name) == "__proto__" {
			return none, p.unstable("JavaScript drops a member of this name")
		}
		if !names.add(name) {
			return none, malformed(p.pointer(), "the object has two members of this name")
		}
		p.space()
		if p.peek() != ':' {
			return none, p.malformed("a colon is missing")
		}
		p.pos++
		p.space()
		v, err := p.value(depth)
		if err != nil {
			return none, err
		}
		n := p.tree.at(v)
		n.name, n.nameVerbatim = name, verbatim
		p.tree.link(obj, v)
		if !indexed && len(name) > 0 && name[0] <= '9' {
			_, indexed = arrayIndex(name)
		}
		p.space()
		switch p.peek() {
		case ',':
			p.pos++
		case '}':
			p.pos++
			p.path = p.path[:len(p.path)-1]
			if indexed {
				p.tree.order(obj)
			}
			return obj, nil
		default:
			return none, p.malformedParent("a comma or } is missing")
		}
	}
}

// nameSet finds duplicate names of an object.
type nameSet struct {
	tree   *tree
	object ref
	n      int
	seen   map[string]struct{}
}

// add reports whether no member before has this name.
func (s *nameSet) add(name []byte) bool {
	if s.n++; s.n <= manyMembers {
		for r := s.tree.at(s.object).first; r != none; r = s.tree.at(r).next {
			if bytes.Equal(s.tree.at(r).name, name) {
				return false
			}
		}
		return true
	}
	if s.seen == nil {
		s.seen = make(map[string]struct{}, 4*manyMembers)
		for r := s.tree.at(s.object).first; r != none; r = s.tree.at(r).next {
			s.seen[string(s.tree.at(r).name)] = struct{}{}
		}
	}
	if _, ok := s.seen[string(name)]; ok {
		return false
	}
	s.seen[string(name)] = struct{}{}
	return true
}

// string reads a string. verbatim is true if nothing in it must be escaped. A string without
// escapes is a slice of the input.
func (p *parser) string() (s []byte, verbatim bool, err error) {
	p.pos++
	start := p.pos
	p.pos += plain(p.in[start:])
	switch p.peek() {
	case '"':
		s = p.in[start:p.pos:p.pos]
		p.pos++
		return s, true, nil
	case '\\':
		return p.escaped(start)
	}
	return nil, false, p.brokenString()
}

// brokenString returns the error of a string in which neither its end nor an escape comes next.
func (p *parser) brokenString() error {
	if p.pos < len(p.in) {
		return p.malformed("a control character in a string must be escaped")
	}
	return p.malformed("a string does not end")
}

// escaped reads the rest of a string from its first escape.
func (p *parser) escaped(start int) (s []byte, verbatim bool, err error) {
	verbatim = true
	buf := append(make([]byte, 0, p.pos-start+32), p.in[start:p.pos]...)
	for {
		n := plain(p.in[p.pos:])
		buf = append(buf, p.in[p.pos:p.pos+n]...)
		p.pos += n
		switch p.peek() {
		case '"':
			p.pos++
			return buf, verbatim, nil
		case '\\':
			p.pos++
		default:
			return nil, false, p.brokenString()
		}
		c := p.peek()
		p.pos++
		switch c {
		case '/':
			buf = append(buf, c)
			continue
		case 'u':
			r, err := p.unicode()
			if err != nil {
				return nil, false, err
			}
			verbatim = verbatim && r >= 0x20 && r != '"' && r != '\\'
			buf = utf8.AppendRune(buf, r)
			continue
		case '"', '\\':
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		default:
			p.pos--
			return nil, false, p.malformed("this is not an escape")
		}
		verbatim = false
		buf = append(buf, c)
	}
}

// unicode reads the four digits of a \u escape, and a second escape if the first is a high
// surrogate.
func (p *parser) unicode() (rune, error) {
	r, err := p.hex4()
	if err != nil || !utf16.IsSurrogate(r) {
		return r, err
	}
	if r < 0xDC00 && bytes.HasPrefix(p.in[p.pos:], []byte(`\u`)) {
		p.pos += 2
		low, err := p.hex4()
		if err != nil {
			return 0, err
		}
		if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
			return pair, nil
		}
	}
	return 0, p.unstable("a lone surrogate is not a character")
}

func (p *parser) hex4() (rune, error) {
	if p.pos+4 > len(p.in) {
		return 0, p.malformed("a \\u escape has four digits")
	}
	var r rune
	for _, c := range p.in[p.pos : p.pos+4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, p.malformed("a \\u escape has four hexadecimal digits")
		}
		r = r<<4 | rune(c)
	}
	p.pos += 4
	return r, nil
}

// number reads a number and returns it as ECMAScript prints it.
func (p *parser) number() ([]byte, error) {
	start := p.pos
	if p.peek() == '-' {
		p.pos++
	}
	switch c := p.peek(); {
	case c == '0':
		p.pos++
	case c >= '1' && c <= '9':
		p.digits()
	default:
		return nil, p.malformed("a digit is missing")
	}
	integer, exponentDigits := true, 0
	if p.peek() == '.' {
		p.pos++
		integer = false
		if p.digits() == 0 {
			return nil, p.malformed("a digit is missing")
		}
	}
	if c := p.peek(); c == 'e' || c == 'E' {
		p.pos++
		integer = false
		if c := p.peek(); c == '+' || c == '-' {
			p.pos++
		}
		if exponentDigits = p.digits(); exponentDigits == 0 {
			return nil, p.malformed("a digit is missing")
		}
	}
	printed, wrong := printNumber(p.in[start:p.pos:p.pos], integer, exponentDigits)
	if wrong != "" {
		return nil, p.unstable(wrong)
	}
	return printed, nil
}

// digits skips decimal digits and returns how many.
func (p *parser) digits() (n int) {
	for p.pos < len(p.in) && p.in[p.pos] >= '0' && p.in[p.pos] <= '9' {
		p.pos++
		n++
	}
	return n
}
