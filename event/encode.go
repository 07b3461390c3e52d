package event

// append appends a value in canonical form.
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

// Canonical rewrites a JSON text into the bytes that V8 returns for
// JSON.stringify(JSON.parse(text)). The error is a *Problem if the text is not JSON, or if
// JavaScript would read one of its values as another.
func Canonical(in []byte) ([]byte, error) {
	var t tree
	if err := t.parse(in, maxStoredDepth); err != nil {
		return nil, err
	}
	return t.append(make([]byte, 0, len(in)), t.root), nil
}
