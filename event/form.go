package event

import (
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// ParseForm reads a submission from the fields of an HTML form. A dotted name
// is a member of a member ("metadata.plan"); rating and the viewport's sizes
// are numbers, everything else strings. A field left empty counts as absent,
// as does an empty message. Its errors are *Problem.
func ParseForm(fields url.Values) (*Feedback, error) {
	f := pool.Get().(*Feedback)
	f.reset()
	f.root = f.add(node{kind: object})
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names) // a form's order is not kept, a document's is fixed
	var wrong []FieldError
	for _, name := range names {
		if detail := f.field(name, fields[name]); detail != "" {
			wrong = append(wrong, FieldError{formPointer(name), detail})
		}
	}
	if len(wrong) > 0 {
		f.Release()
		return nil, invalid(wrong...)
	}
	f.orderAll(f.root)
	if err := f.settle(); err != nil {
		f.Release()
		return nil, err
	}
	return f, nil
}

func formPointer(name string) string {
	var b strings.Builder
	for step := range strings.SplitSeq(strings.ToValidUTF8(name, "\uFFFD"), ".") {
		b.WriteString("/" + escapePointer.Replace(step))
	}
	return b.String()
}

// field sets one field and says what is wrong with it.
func (f *Feedback) field(name string, values []string) (wrong string) {
	switch {
	case len(values) != 1:
		return "is given more than once"
	case values[0] == "":
		return ""
	case !utf8.ValidString(name) || !utf8.ValidString(values[0]):
		return "is not valid UTF-8"
	}
	steps := strings.Split(name, ".")
	if len(steps) > MaxDepth-1 {
		return "nests too deep"
	}
	parent := f.root
	for i, step := range steps {
		if step == "" {
			return "has a name with an empty part"
		}
		if step == "__proto__" {
			return "has a name that vanishes in JavaScript"
		}
		old := f.member(parent, step)
		if i == len(steps)-1 {
			if old != none {
				return "is both a value and an object"
			}
			value, wrong := f.formValue(steps, values[0])
			if wrong != "" {
				return wrong
			}
			f.set(parent, step, value)
			return ""
		}
		if old == none {
			old = f.add(node{kind: object})
			f.set(parent, step, old)
		} else if f.at(old).kind != object {
			return "is both a value and an object"
		}
		parent = old
	}
	return ""
}

func (f *Feedback) formValue(steps []string, value string) (ref, string) {
	parent := "/" + strings.Join(steps[:len(steps)-1], "/")
	name := steps[len(steps)-1]
	numeric := len(steps) == 1 && name == "rating" || parent == "/context/viewport" && isKnown(parent, name)
	if !numeric {
		return f.newText(value), ""
	}
	t := tree{}
	if err := t.parse([]byte(strings.TrimSpace(value))); err != nil || t.at(t.root).kind != number {
		return none, "is no number"
	}
	return f.add(node{kind: number, value: t.at(t.root).value}), ""
}
