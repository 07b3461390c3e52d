package intake

import (
	"strings"

	"golang.org/x/net/http/httpguts"
)

// httpSpace is HTTP whitespace (https://fetch.spec.whatwg.org/#http-whitespace).
const httpSpace = "\t\n\r "

// mediaType is the value of a Content-Type field.
type mediaType struct {
	essence    string            // type/subtype, in lower case
	parameters map[string]string // by name in lower case; nil if there are none
}

// parseMediaType reads a Content-Type field as browsers do
// (https://mimesniff.spec.whatwg.org/#parse-a-mime-type): a parameter that cannot be read is
// left out, and of two with one name the first counts. (mime.ParseMediaType refuses the
// whole field instead, such as the widely copied "application/json; utf-8".) ok is false if
// there is no type and subtype.
func parseMediaType(field string) (m mediaType, ok bool) {
	essence, rest, _ := strings.Cut(strings.Trim(field, httpSpace), ";")
	kind, subtype, _ := strings.Cut(essence, "/")
	subtype = strings.TrimRight(subtype, httpSpace)
	// A field name is a token (RFC 9110 §5.6.2), and so are these.
	if !httpguts.ValidHeaderFieldName(kind) || !httpguts.ValidHeaderFieldName(subtype) {
		return mediaType{}, false
	}
	m.essence = strings.ToLower(kind + "/" + subtype)
	for rest != "" {
		rest = strings.TrimLeft(rest, httpSpace)
		end := strings.IndexAny(rest, ";=")
		if end < 0 {
			break
		}
		name := strings.ToLower(rest[:end])
		if rest[end] == ';' {
			rest = rest[end+1:]
			continue
		}
		var value string
		quoted := strings.HasPrefix(rest[end+1:], `"`)
		if quoted {
			value, rest = unquote(rest[end+2:])
			_, rest, _ = strings.Cut(rest, ";")
		} else {
			value, rest, _ = strings.Cut(rest[end+1:], ";")
			value = strings.TrimRight(value, httpSpace)
		}
		if _, taken := m.parameters[name]; taken || !httpguts.ValidHeaderFieldName(name) || value == "" && !quoted {
			continue
		}
		if m.parameters == nil {
			m.parameters = make(map[string]string)
		}
		m.parameters[name] = value
	}
	return m, true
}

// unquote reads a quoted string after its first quote, and returns the text after its last
// quote as rest.
func unquote(s string) (value, rest string) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:]
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), ""
}
