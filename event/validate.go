package event

import (
	"bytes"
	"fmt"
	"net/url"
	"strings"
	"unicode"
)

// maxID bounds a feedback id in bytes.
const maxID = 128

// validator collects the errors of a submission.
type validator struct {
	t      *tree
	errors []FieldError
}

func (v *validator) add(pointer, format string, args ...any) {
	v.errors = append(v.errors, FieldError{pointer, fmt.Sprintf(format, args...)})
}

// data checks the data of a submission.
func (v *validator) data() {
	v.members(v.t.root, "")
	if v.t.member(v.t.root, "message") == none && !v.hasError("/message") {
		v.add("/message", "missing; feedback has a message")
	}
}

// hasError reports whether there is an error at a pointer.
func (v *validator) hasError(pointer string) bool {
	for _, e := range v.errors {
		if e.Pointer == pointer {
			return true
		}
	}
	return false
}

// members checks the known members of data, context or viewport, and removes those that are
// null.
func (v *validator) members(parent ref, pointer string) {
	known := known(pointer)
	at := v.t.find(parent, known)
	for i, name := range known {
		switch r := at[i]; {
		case r == none:
		case v.t.at(r).kind == null:
			v.t.remove(parent, name)
		default:
			v.member(r, name, pointer)
		}
	}
}

// member checks one known member.
func (v *validator) member(r ref, name, parent string) {
	n := v.t.at(r)
	wrong := func(format string, args ...any) { v.add(parent+"/"+name, format, args...) }
	want := text
	switch name {
	case "rating", "width", "height":
		want = number
	case "context", "metadata", "viewport":
		want = object
	}
	if n.kind != want {
		wrong("is %s; it must be %s", n.kind, want)
		return
	}
	switch name {
	case "message":
		if blank(n.value) {
			wrong("is empty")
		}
	case "id":
		v.id(n, parent+"/"+name)
	case "status":
		if len(n.value) == 0 {
			wrong("is empty")
		}
	case "rating":
		if len(n.value) != 1 || n.value[0] < '1' || n.value[0] > '5' {
			wrong("is %s; it must be an integer from 1 to 5", n.value)
		}
	case "width", "height":
		if n.value[0] == '-' {
			wrong("is negative")
		}
	case "screenshotUrl":
		if !webAddress(n.value) {
			wrong("is not an absolute http or https URL")
		}
	case "createdAt":
		at, ok := parseTime(n.value)
		if !ok {
			wrong("is not an RFC 3339 time, such as 2026-01-07T15:30:00Z")
			return
		}
		if at.Year() < 0 || at.Year() > 9999 {
			wrong("is outside the years 0000 to 9999")
			return
		}
		n.value, n.verbatim = appendTime(make([]byte, 0, timeSize), at), true
	case "context":
		v.members(r, "/context")
	case "viewport":
		v.members(r, "/context/viewport")
	}
}

// blank reports whether a text is empty, or only white space as Unicode and ECMAScript define
// it.
func blank(text []byte) bool {
	return len(bytes.TrimFunc(text, func(r rune) bool { return unicode.IsSpace(r) || r == '\ufeff' })) == 0
}

// webAddress reports whether a text is an absolute http or https URL. After the host any
// characters but control characters may follow, as in a browser: people's URLs have many
// that RFC 3986 forbids, such as a bare %.
func webAddress(text []byte) bool {
	if bytes.ContainsFunc(text, unicode.IsControl) {
		return false
	}
	scheme, rest, _ := strings.Cut(string(text), "://")
	if !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
		return false
	}
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		rest = rest[:i]
	}
	u, err := url.Parse("http://" + rest)
	return err == nil && u.Hostname() != ""
}

// id checks an id that a client has chosen: it will be in URLs and logs.
func (v *validator) id(n *node, pointer string) {
	if len(n.value) == 0 || len(n.value) > maxID {
		v.add(pointer, "has %d bytes; it must have 1 to %d", len(n.value), maxID)
		return
	}
	for _, c := range n.value {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-', c == '.', c == '~', c == ':':
		default:
			v.add(pointer, "has a character other than letters, digits and _ - . ~ :")
			return
		}
	}
	if s := string(n.value); s == "." || s == ".." {
		v.add(pointer, "cannot be . or ..")
	}
}

// IsID reports whether a text can be the id of feedback.
func IsID(text string) bool {
	var v validator
	v.id(&node{value: bytesOf(text)}, "")
	return len(v.errors) == 0
}
