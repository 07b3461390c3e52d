package spans

import (
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// record is what a span records until it ends; then it serves another.
type record struct {
	// encoded is the span as one of a scope's, but for what is written at its end:
	// the fields below, and its length.
	encoded     []byte
	began       int // where its content begins
	name        string
	start       time.Time
	status      codes.Code
	description string

	// attributes, events and links are where each is in encoded, the oldest first.
	attributes, events, links []part
	// keys has a bit for each key among the attributes; some share one.
	keys uint64
	// what the limits have cost
	lostAttributes, lostEvents, lostLinks int
}

// part is one attribute, event or link. An attribute has a key, and no other has
// the same.
type part struct {
	key     attribute.Key
	at, end int
}

var records = sync.Pool{New: func() any { return &record{encoded: make([]byte, 0, 1<<10)} }}

// maxKept bounds what a record keeps for the next span, in bytes and in parts.
const (
	maxKept      = 4 << 10
	maxKeptParts = 64
)

func (r *record) release() {
	if cap(r.encoded) > maxKept || cap(r.attributes)+cap(r.events)+cap(r.links) > maxKeptParts {
		return
	}
	*r = record{encoded: r.encoded[:0], attributes: r.attributes[:0], events: r.events[:0], links: r.links[:0]}
	records.Put(r)
}

// now is as far from the start as it is, whatever the clock was set to meanwhile.
func (r *record) now() time.Time { return r.start.Add(time.Since(r.start)) }

// begin writes what is known at the start.
func (r *record) begin(sc, parent trace.SpanContext, name string, kind trace.SpanKind, start time.Time) {
	r.name, r.start = name, start
	r.encoded, r.began = begin(r.encoded, scopeSpansSpans)
	r.encoded = appendIdentity(r.encoded, sc, parent)
	r.encoded = append(r.encoded, spanKind, byte(kindOf(kind)))
	r.encoded = appendTime(r.encoded, spanStart, start)
}

// end writes the rest.
func (r *record) end(at time.Time) {
	b := appendText(r.encoded, spanName, r.name)
	b = appendTime(b, spanEnd, at)
	b = appendCount(b, spanLostAttributes, r.lostAttributes)
	b = appendCount(b, spanLostEvents, r.lostEvents)
	b = appendCount(b, spanLostLinks, r.lostLinks)
	b = appendStatus(b, r.status, r.description)
	r.encoded = end(b, r.began)
}

// set sets attributes; of a key that comes twice the later value counts, in the
// place of the first.
func (r *record) set(limits *sdktrace.SpanLimits, attributes []attribute.KeyValue) {
	for i := range attributes {
		a := &attributes[i]
		if !a.Valid() {
			r.lostAttributes++
			continue
		}
		bit := uint64(1) << ((len(a.Key)*7 + int(a.Key[len(a.Key)-1])) % 64)
		if r.keys&bit != 0 {
			if j := slices.IndexFunc(r.attributes, func(p part) bool { return p.key == a.Key }); j >= 0 {
				r.replace(r.attributes[j], appendAttribute(nil, spanAttributes, a, limits.AttributeValueLengthLimit))
				continue
			}
		}
		if limit := limits.AttributeCountLimit; limit >= 0 && len(r.attributes) >= limit {
			r.lostAttributes++
			continue
		}
		at := len(r.encoded)
		r.encoded = appendAttribute(r.encoded, spanAttributes, a, limits.AttributeValueLengthLimit)
		r.attributes = append(r.attributes, part{key: a.Key, at: at, end: len(r.encoded)})
		r.keys |= bit
	}
}

// add sets what is prepared.
func (r *record) add(limits *sdktrace.SpanLimits, p *prepared) {
	if r.keys != 0 {
		r.set(limits, p.plain) // some may be there already
		return
	}
	by := len(r.encoded)
	r.encoded = append(r.encoded, p.encoded...)
	for _, a := range p.attributes {
		r.attributes = append(r.attributes, part{key: a.key, at: a.at + by, end: a.end + by})
	}
	r.keys, r.lostAttributes = p.keys, r.lostAttributes+p.lostAttributes
}

func (r *record) event(limits *sdktrace.SpanLimits, name string, at time.Time, attributes []attribute.KeyValue) {
	began := len(r.encoded)
	attributes, lost := atMost(limits.AttributePerEventCountLimit, attributes)
	r.encoded = appendEvent(r.encoded, name, at, attributes, lost)
	r.events = append(r.events, part{at: began, end: len(r.encoded)})
	r.bound(&r.events, limits.EventCountLimit, &r.lostEvents)
}

func (r *record) link(limits *sdktrace.SpanLimits, l trace.Link) {
	if !l.SpanContext.IsValid() && len(l.Attributes) == 0 && l.SpanContext.TraceState().Len() == 0 {
		return // to nowhere
	}
	began := len(r.encoded)
	attributes, lost := atMost(limits.AttributePerLinkCountLimit, l.Attributes)
	r.encoded = appendLink(r.encoded, l.SpanContext, attributes, lost)
	r.links = append(r.links, part{at: began, end: len(r.encoded)})
	r.bound(&r.links, limits.LinkCountLimit, &r.lostLinks)
}

// bound takes the oldest of events or links out where there are more than the
// limit; a negative one is none.
func (r *record) bound(list *[]part, limit int, lost *int) {
	if limit < 0 || len(*list) <= limit {
		return
	}
	oldest := (*list)[0]
	*list = slices.Delete(*list, 0, 1)
	*lost++
	r.replace(oldest, nil)
}

// replace puts something else in the place of a part.
func (r *record) replace(p part, encoded []byte) {
	r.encoded = slices.Replace(r.encoded, p.at, p.end, encoded...)
	by := len(encoded) - (p.end - p.at)
	for _, list := range [...][]part{r.attributes, r.events, r.links} {
		for i := range list {
			if list[i].at > p.at {
				list[i].at += by
			}
			if list[i].end >= p.end {
				list[i].end += by
			}
		}
	}
}

// atMost are the first attributes, and how many are left out; a negative limit is
// none.
func atMost(limit int, attributes []attribute.KeyValue) (kept []attribute.KeyValue, lost int) {
	if limit < 0 || len(attributes) <= limit {
		return attributes, 0
	}
	return attributes[:limit], len(attributes) - limit
}
