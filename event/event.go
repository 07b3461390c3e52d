// Package event defines feedback and the documents of its events.
//
// It promises that JavaScript does not change a document:
// JSON.stringify(JSON.parse(document)) returns the same bytes. So a receiver can verify a
// signature over a body that it has parsed and serialised again. Input that cannot have such a
// form is refused with a Problem that points at it.
//
// A submission becomes a document in three steps: Parse, ParseForm or ParsePatch reads and
// checks it; Fill, Complete and Merge add what it does not have; Document writes it.
//
// The package knows no requests, queues or webhooks, and imports the standard library alone.
//
// The tests compare its documents with those of V8, through node, for inputs that are
// written down, generated or found by fuzzing (v8_test.go).
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

// The types of operational events, which report the state of a webhook. A webhook gets
// them only if its settings name them.
const (
	WebhookFailing   Type = "webhook.failing"
	WebhookRecovered Type = "webhook.recovered"
	WebhookDisabled  Type = "webhook.disabled"
)

// Types lists the types of feedback's events. Webhooks get all of them by default.
func Types() []Type { return []Type{Created, Updated} }

// OperationalTypes lists the types of operational events.
func OperationalTypes() []Type { return []Type{WebhookFailing, WebhookRecovered, WebhookDisabled} }

// Operational reports whether events of this type report the state of a webhook.
func (t Type) Operational() bool {
	return t == WebhookFailing || t == WebhookRecovered || t == WebhookDisabled
}

const (
	// MaxDocument bounds a finished document, in bytes: Express's JSON parser answers 413
	// above 100 KiB, at every retry.
	MaxDocument = 100 << 10
	// MaxDepth is how many levels a finished document may have.
	MaxDepth = 64
	// maxStoredDepth is how many levels a stored document may have: earlier versions let
	// data alone have MaxDepth levels.
	maxStoredDepth = MaxDepth + 1
	// maxDataDepth is how many levels data may have, and so a submission or a change: the
	// document is one level around it.
	maxDataDepth = MaxDepth - 1
)

// idAlphabet sorts as the bytes it encodes do.
var idAlphabet = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// NewID returns a feedback id: "fb_" and 26 characters. Ids sort by time, to the millisecond,
// and have 80 random bits.
func NewID(now time.Time) string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(now.UnixMilli()))
	copy(b[:6], ms[2:])
	id := append(make([]byte, 0, 29), "fb_"...)
	return string(idAlphabet.AppendEncode(id, b[:]))
}
