package event

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// ParseForm reads a submission from the fields of an HTML form, whose names and values must be
// UTF-8. A dotted name, such as "metadata.plan", is a member of a member. rating and the
// viewport's width and height are numbers, everything else is text. Of a known member the last
// value counts. Several values of another member, such as those of checkboxes, become an array.
// An empty value counts as absent. The error is a *Problem.
func ParseForm(fields url.Values) (*Feedback, error) {
	f := pool.Get().(*Feedback)
	f.reset()
	f.root = f.add(node{kind: object})
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names) // url.Values has no order, a document needs one
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
	if err := f.validate(); err != nil {
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

// field sets one field, or returns what is wrong with it.
func (f *Feedback) field(name string, values []string) (wrong string) {
	steps := strings.Split(name, ".")
	parent := "/" + strings.Join(steps[:len(steps)-1], "/")
	if parent == "/" {
		parent = ""
	}
	depth := len(steps)
	if isKnown(parent, steps[len(steps)-1]) {
		values = values[max(0, len(values)-1):]
	}
	values = slices.DeleteFunc(slices.Clone(values), func(v string) bool { return v == "" })
	switch len(values) {
	case 0:
		return ""
	case 1:
	default:
		depth++ // of the array
	}
	if depth > maxDataDepth {
		return fmt.Sprintf("is nested too deep: a finished event has at most %d levels", MaxDepth)
	}
	into := f.root
	for i, step := range steps {
		if step == "" {
			return "has a name with an empty part"
		}
		if step == "__proto__" {
			return "has a name that JavaScript drops"
		}
		old := f.member(into, step)
		if i == len(steps)-1 {
			if old != none {
				return "is both a value and an object"
			}
			value, wrong := f.formValue(parent, step, values)
			if wrong != "" {
				return wrong
			}
			f.set(into, step, value)
			return ""
		}
		if old == none {
			old = f.add(node{kind: object})
			f.set(into, step, old)
		} else if f.at(old).kind != object {
			return "is both a value and an object"
		}
		into = old
	}
	return ""
}

// formValue makes the value of a field: a number or text, or an array of texts.
func (f *Feedback) formValue(parent, name string, values []string) (value ref, wrong string) {
	if len(values) > 1 {
		list := f.add(node{kind: array})
		for _, v := range values {
			f.link(list, f.newText(v))
		}
		return list, ""
	}
	numeric := parent == "" && name == "rating" || parent == "/context/viewport" && isKnown(parent, name)
	if !numeric {
		return f.newText(values[0]), ""
	}
	t := tree{}
	if err := t.parse([]byte(strings.TrimSpace(values[0])), 0); err != nil || t.at(t.root).kind != number {
		return none, "is not a number"
	}
	return f.add(node{kind: number, value: t.at(t.root).value}), ""
}
