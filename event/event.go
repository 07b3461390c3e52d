// Package event says what feedback is and what an event looks like on the wire.
//
// It promises that every document it writes is stable in JavaScript:
// JSON.stringify(JSON.parse(document)) gives the same bytes, so a receiver that
// verifies a signature over a re-serialised body can. What has no such form is
// refused with a Problem that points at it. The package knows nothing of HTTP,
// queues or webhooks, and needs the standard library alone.
package event

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"time"
)

// Type is the type of an event.
type Type string

// The types of events.
const (
	Created Type = "feedback.created"
	Updated Type = "feedback.updated"
)

// Types lists every type of event.
func Types() []Type { return []Type{Created, Updated} }

const (
	// MaxDocument bounds a finished event document, in bytes: Express's JSON
	// parser answers 413 above 100 KiB, and would do so at every retry.
	MaxDocument = 100 << 10
	// MaxDepth bounds how deep a finished document nests.
	MaxDepth = 64
	// maxStoredDepth bounds how deep a document nests that is read again: earlier
	// versions let data alone have MaxDepth levels.
	maxStoredDepth = MaxDepth + 1
	// maxDataDepth bounds how deep data nests, and so a submission or a change:
	// the document is one level around it.
	maxDataDepth = MaxDepth - 1
)

// idAlphabet sorts as the bytes it encodes do.
var idAlphabet = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// NewID makes a feedback id: "fb_" and 26 characters that sort by time, to the
// millisecond, of which 80 bits are random.
func NewID(now time.Time) string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(now.UnixMilli()))
	copy(b[:6], ms[2:])
	id := append(make([]byte, 0, 29), "fb_"...)
	return string(idAlphabet.AppendEncode(id, b[:]))
}
