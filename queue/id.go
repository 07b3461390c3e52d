package queue

import (
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// EventID identifies an event. IDs sort by time and are unique, even after a store was
// wiped or restored from a backup: 48 bits of milliseconds since 1970, 32 bits of the
// store's random tag, 48 bits of sequence number.
type EventID [16]byte

// WebhookID numbers webhooks within a store, from 1; it is never reused.
type WebhookID uint32

// DeliveryID identifies the delivery of one event to one webhook.
type DeliveryID struct {
	Event   EventID
	Webhook WebhookID
}

// crockford is the alphabet of ULIDs in lower case. It sorts in the order of the bytes.
var crockford = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// NewEventID makes an id from its parts. seq must be below 2^48.
func NewEventID(created time.Time, tag uint32, seq uint64) (id EventID) {
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(created.UnixMilli()))
	copy(id[:6], ms[2:])
	binary.BigEndian.PutUint32(id[6:10], tag)
	var s [8]byte
	binary.BigEndian.PutUint64(s[:], seq)
	copy(id[10:], s[2:])
	return id
}

// IsZero reports whether the id is zero.
func (id EventID) IsZero() bool { return id == EventID{} }

// Created returns the time in the id, to the millisecond.
func (id EventID) Created() time.Time {
	var ms [8]byte
	copy(ms[2:], id[:6])
	return time.UnixMilli(int64(binary.BigEndian.Uint64(ms[:]))).UTC()
}

// Tag returns the tag of the store that made the id.
func (id EventID) Tag() uint32 { return binary.BigEndian.Uint32(id[6:10]) }

// Seq returns the sequence number in the id.
func (id EventID) Seq() uint64 {
	var s [8]byte
	copy(s[2:], id[10:])
	return binary.BigEndian.Uint64(s[:])
}

// String returns "evt_" and 26 characters.
func (id EventID) String() string {
	var b [30]byte
	copy(b[:], "evt_")
	crockford.Encode(b[4:], id[:])
	return string(b[:])
}

// ParseEventID parses the form that EventID.String returns.
func ParseEventID(s string) (id EventID, err error) {
	enc, ok := strings.CutPrefix(s, "evt_")
	if !ok || len(enc) != 26 {
		return id, fmt.Errorf("%q is no event id (evt_ and 26 characters): %w", s, ErrNotFound)
	}
	b, err := crockford.DecodeString(enc)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("%q is no event id (evt_ and 26 characters): %w", s, ErrNotFound)
	}
	copy(id[:], b)
	return id, nil
}

// String returns "dlv_", the event's 26 characters, "_" and the webhook's number.
func (id DeliveryID) String() string {
	b := make([]byte, 31, 41) // with the longest number
	copy(b, "dlv_")
	crockford.Encode(b[4:], id.Event[:])
	b[30] = '_'
	return string(strconv.AppendUint(b, uint64(id.Webhook), 10))
}

// ParseDeliveryID parses the form that DeliveryID.String returns.
func ParseDeliveryID(s string) (id DeliveryID, err error) {
	bad := func() (DeliveryID, error) {
		return DeliveryID{}, fmt.Errorf("%q is no delivery id (dlv_…_N): %w", s, ErrNotFound)
	}
	enc, ok := strings.CutPrefix(s, "dlv_")
	if !ok || len(enc) < 28 || enc[26] != '_' {
		return bad()
	}
	if id.Event, err = ParseEventID("evt_" + enc[:26]); err != nil {
		return bad()
	}
	n, err := strconv.ParseUint(enc[27:], 10, 32)
	if err != nil || n == 0 {
		return bad()
	}
	id.Webhook = WebhookID(n)
	return id, nil
}
