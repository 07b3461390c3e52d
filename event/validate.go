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

// validator collects what is wrong with a submission.
type validator struct {
	f      *Feedback
	errors []FieldError
}

func (v *validator) wrong(pointer, format string, args ...any) {
	v.errors = append(v.errors, FieldError{pointer, fmt.Sprintf(format, args...)})
}

// data validates the whole; the message must be there.
func (v *validator) data() {
	v.members(v.f.root, "")
	if v.f.member(v.f.root, "message") == none && !v.accused("/message") {
		v.wrong("/message", "missing; feedback has a message")
	}
}

func (v *validator) accused(pointer string) bool {
	for _, e := range v.errors {
		if e.Pointer == pointer {
			return true
		}
	}
	return false
}

// members validates the known members of data, context or viewport. A null is
// the same as nothing.
func (v *validator) members(parent ref, pointer string) {
	known := known(pointer)
	at := v.f.find(parent, known)
	for i, name := range known {
		switch r := at[i]; {
		case r == none:
		case v.f.at(r).kind == null:
			v.f.remove(parent, name)
		default:
			v.member(r, name, pointer)
		}
	}
}

// member validates one known member.
func (v *validator) member(r ref, name, parent string) {
	n := v.f.at(r)
	wrong := func(format string, args ...any) { v.wrong(parent+"/"+name, format, args...) }
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
			wrong("is no absolute http or https URL")
		}
	case "createdAt":
		at, ok := parseTime(n.value)
		if !ok {
			wrong("is no time of RFC 3339, such as 2026-01-07T15:30:00Z")
			return
		}
		if at.Year() < 0 || at.Year() > 9999 {
			wrong("lies outside the years 0000 to 9999")
			return
		}
		n.value, n.verbatim = appendTime(make([]byte, 0, timeSize), at), true
	case "context":
		v.members(r, "/context")
	case "viewport":
		v.members(r, "/context/viewport")
	}
}

// blank reports whether a text shows nothing: it is empty, or white space as
// Unicode and ECMAScript define it.
func blank(text []byte) bool {
	return len(bytes.TrimFunc(text, func(r rune) bool { return unicode.IsSpace(r) || r == '\ufeff' })) == 0
}

// webAddress reports whether a text is an absolute http or https URL. Behind
// the host anything but control characters may follow, as in a browser: a bare %
// is one of many things that RFC 3986 forbids and people have in their URLs.
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

// id validates a client-given id: it stands in URLs and in logs.
func (v *validator) id(n *node, pointer string) {
	if len(n.value) == 0 || len(n.value) > maxID {
		v.wrong(pointer, "has %d bytes; it must have 1 to %d", len(n.value), maxID)
		return
	}
	for _, c := range n.value {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-', c == '.', c == '~', c == ':':
		default:
			v.wrong(pointer, "has a character other than letters, digits and _ - . ~ :")
			return
		}
	}
	if s := string(n.value); s == "." || s == ".." {
		v.wrong(pointer, "is a path's step, not an id")
	}
}

// IsID reports whether a text may be the id of feedback.
func IsID(text string) bool {
	var v validator
	v.id(&node{value: bytesOf(text)}, "")
	return len(v.errors) == 0
}
