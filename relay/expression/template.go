package expression

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/userhero/relay/event"
)

// MaxBody bounds what a template makes, in bytes. It is more than twice the longest
// document.
const MaxBody = 256 << 10

// dearCost and dearBody are the cost from which an evaluation is dear, and the length from
// which a body is dear to make.
const (
	dearCost = maxCost / 10
	dearBody = MaxBody / 4
)

// isDear reports whether an evaluation was dear. One that was given up has no cost.
func isDear(details *cel.EvalDetails) bool {
	cost := details.ActualCost()
	return cost == nil || *cost >= dearCost
}

// errTooLong reports that a template makes more than MaxBody.
var errTooLong = fmt.Errorf("it makes more than %d KiB; leave something out", MaxBody>>10)

// Template is a compiled expression whose value is the body of a request.
type Template struct{ program cel.Program }

// CompileTemplate compiles a template. Besides `event` and `data`, the expression may use
// `timestamp`, the event's time as text, and `webhook`, a map with the name of the
// webhook. Its value is a map, a list or a string. An error includes line and column.
func CompileTemplate(source string) (*Template, error) {
	program, err := compile(source, "a map, a list or a string", types.MapKind, types.ListKind, types.StringKind)
	if err != nil {
		return nil, err
	}
	t := &Template{program}
	if _, err := t.Make([]byte(nothing), "webhook"); errors.Is(err, ErrTooDear) || errors.Is(err, errTooLong) {
		return nil, at(1, 0, "%w", err)
	}
	return t, nil
}

// Made is what a template makes.
type Made struct {
	Body []byte
	Text bool // the value is a string; otherwise Body is JSON in canonical form
	// Dear means that it took a tenth of what it may cost or more. It is so if it fails
	// because it costs too much.
	Dear bool
}

// Make returns the body that the template makes of an event's document. Members of JSON have
// the order in which the expression or the document has them. The same document gives the
// same bytes. If it fails, there is no body.
func (t *Template) Make(document []byte, webhook string) (m Made, err error) {
	vars, err := orderedVariables(document, webhook)
	if err != nil {
		return m, err
	}
	v, details, err := t.program.Eval(vars)
	m.Dear = isDear(details)
	if err != nil {
		return m, readable(err)
	}
	switch v := v.(type) {
	case types.String:
		if m.Text = true; len(v) > MaxBody {
			return m, errTooLong
		}
		m.Body = []byte(v)
		return m, nil
	case traits.Mapper, traits.Lister:
		written, err := appendValue(nil, v)
		m.Dear = m.Dear || len(written) > dearBody
		if err != nil {
			return m, err
		}
		body, err := event.Canonical(written)
		if err != nil {
			return m, fmt.Errorf("it gives what JSON cannot hold: %w", err)
		}
		if len(body) > MaxBody {
			return m, errTooLong
		}
		m.Body = body
		return m, nil
	}
	return m, fmt.Errorf("it gives %s, not a map, a list or a string", typeName(v))
}

// appendValue appends a value as JSON. It stops at errTooLong.
func appendValue(b []byte, v ref.Val) ([]byte, error) {
	if len(b) > MaxBody {
		return b, errTooLong
	}
	switch v := v.(type) {
	case types.Null:
		return append(b, "null"...), nil
	case types.Bool:
		return strconv.AppendBool(b, bool(v)), nil
	case types.Int:
		return strconv.AppendInt(b, int64(v), 10), nil
	case types.Uint:
		return strconv.AppendUint(b, uint64(v), 10), nil
	case types.Double:
		if f := float64(v); !math.IsInf(f, 0) && !math.IsNaN(f) {
			return event.AppendNumber(b, f), nil
		}
		return b, fmt.Errorf("it gives the number %v, which JSON does not have", v)
	case types.String:
		return appendText(b, string(v)), nil
	case types.Timestamp, types.Duration:
		text, ok := v.ConvertToType(types.StringType).(types.String)
		if !ok {
			return b, fmt.Errorf("%s cannot be written", typeName(v))
		}
		return appendText(b, string(text)), nil
	case traits.Mapper:
		return appendMap(b, v)
	case traits.Lister:
		b = append(b, '[')
		first := true
		for it := v.Iterator(); it.HasNext() == types.True; first = false {
			if !first {
				b = append(b, ',')
			}
			var err error
			if b, err = appendValue(b, it.Next()); err != nil {
				return b, err
			}
		}
		return append(b, ']'), nil
	}
	if err, ok := v.(*types.Err); ok {
		return b, err
	}
	return b, fmt.Errorf("it gives %s, which JSON does not have", typeName(v))
}

func appendMap(b []byte, m traits.Mapper) ([]byte, error) {
	b = append(b, '{')
	first := true
	for it := m.Iterator(); it.HasNext() == types.True; first = false {
		name, ok := it.Next().(types.String)
		if !ok {
			return b, errors.New("it gives a map with a key that is not a text")
		}
		if !first {
			b = append(b, ',')
		}
		b = append(appendText(b, string(name)), ':')
		var err error
		if b, err = appendValue(b, m.Get(name)); err != nil {
			return b, err
		}
	}
	return append(b, '}'), nil
}

// appendText appends a JSON string. The canonical encoder writes its escapes anew.
func appendText(b []byte, text string) []byte {
	quoted, err := json.Marshal(text)
	if err != nil {
		panic(err) // strings always marshal
	}
	return append(b, quoted...)
}

// object is a map that keeps the order of its keys. CEL's own maps have none.
type object struct {
	traits.Mapper

	keys []ref.Val
}

// Iterator implements traits.Iterable.
func (o *object) Iterator() traits.Iterator {
	return types.NewRefValList(types.DefaultTypeAdapter, o.keys).Iterator()
}

// newObject makes a map of a list of keys and values in turn.
func newObject(pairs ref.Val) ref.Val {
	list, ok := pairs.(traits.Lister)
	if !ok {
		return types.MaybeNoSuchOverloadErr(pairs)
	}
	values := make(map[ref.Val]ref.Val)
	o := new(object)
	for it := list.Iterator(); it.HasNext() == types.True; {
		key := it.Next()
		switch key.(type) {
		case types.String, types.Int, types.Uint, types.Bool:
		default:
			return types.NewErr("%s cannot be the key of a map", typeName(key))
		}
		if _, twice := values[key]; twice {
			return types.NewErr("a key is there twice")
		}
		values[key] = it.Next()
		o.keys = append(o.keys, key)
	}
	o.Mapper = types.NewRefValMap(types.DefaultTypeAdapter, values)
	return o
}

// orderedVariables returns the variables of a template. Its maps keep the order of the
// document.
func orderedVariables(document []byte, webhook string) (map[string]any, error) {
	parsed, err := parseOrdered(json.NewDecoder(bytes.NewReader(document)))
	if err != nil {
		return nil, fmt.Errorf("the event cannot be read: %w", err)
	}
	vars := map[string]any{
		"event": "", "timestamp": "", "data": map[string]any{}, "webhook": map[string]string{"name": webhook},
	}
	root, ok := parsed.(traits.Mapper)
	for _, name := range []string{"event", "timestamp", "data"} {
		if !ok {
			break
		}
		if v, found := root.Find(types.String(name)); found {
			vars[name] = v
		}
	}
	return vars, nil
}

// parseOrdered reads one JSON value. Objects become maps that keep their order.
func parseOrdered(d *json.Decoder) (ref.Val, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	open, ok := token.(json.Delim)
	if !ok {
		return types.DefaultTypeAdapter.NativeToValue(token), nil
	}
	var values []ref.Val
	for d.More() {
		v, err := parseOrdered(d) // the names of members are values too
		if err != nil {
			return nil, err
		}
		values = append(values, v)
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	list := types.NewRefValList(types.DefaultTypeAdapter, values)
	if open == '[' {
		return list, nil
	}
	return newObject(list), nil
}
