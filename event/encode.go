package event

// verbatim tells whether a string needs no escape.
func verbatim(s []byte) bool {
	for _, c := range s {
		if c < 0x20 || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// appendString appends a string as ECMAScript's QuoteJSONString does (ECMA-262
// §25.5.2.3): raw but for the quote, the backslash and control characters.
func appendString(dst, s []byte, verbatim bool) []byte {
	dst = append(dst, '"')
	if verbatim {
		dst = append(dst, s...)
		return append(dst, '"')
	}
	const hex = "0123456789abcdef"
	from := 0
	for i, c := range s {
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\t':
			dst = append(dst, '\\', 't')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\r':
			dst = append(dst, '\\', 'r')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}

// append appends a value in its canonical form.
func (t *tree) append(dst []byte, r ref) []byte {
	n := t.at(r)
	switch n.kind {
	case null:
		return append(dst, "null"...)
	case boolean, number:
		return append(dst, n.value...)
	case text:
		return appendString(dst, n.value, n.verbatim)
	case array:
		dst = append(dst, '[')
		for c := n.first; c != none; c = t.at(c).next {
			if c != n.first {
				dst = append(dst, ',')
			}
			dst = t.append(dst, c)
		}
		return append(dst, ']')
	}
	dst = append(dst, '{')
	for c := n.first; c != none; c = t.at(c).next {
		if c != n.first {
			dst = append(dst, ',')
		}
		m := t.at(c)
		dst = appendString(dst, m.name, m.nameVerbatim)
		dst = append(dst, ':')
		dst = t.append(dst, c)
	}
	return append(dst, '}')
}

// Canonical rewrites a JSON text into the bytes that V8 gives for
// JSON.stringify(JSON.parse(text)). What would not keep its value is refused
// with a *Problem.
func Canonical(in []byte) ([]byte, error) {
	var t tree
	if err := t.parse(in); err != nil {
		return nil, err
	}
	return t.append(make([]byte, 0, len(in)), t.root), nil
}
