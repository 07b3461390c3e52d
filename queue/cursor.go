package queue

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

const (
	defaultPage = 50
	largestPage = 1000
)

// PageSize returns how many items a page of a list has for the limit of a query: 50 if
// the limit is not positive, and at most 1000.
func PageSize(limit int) int {
	if limit <= 0 {
		return defaultPage
	}
	return min(limit, largestPage)
}

// Cursor is a position in a list from the newest event to the oldest, for engines that
// number their events: a delivery of an event or, in lists of events, webhook 0. New
// rows do not move it.
type Cursor struct {
	Seq     uint64
	Webhook WebhookID
}

// String returns the text that ParseCursor reads.
func (c Cursor) String() string {
	return strconv.FormatUint(c.Seq, 36) + "." + strconv.FormatUint(uint64(c.Webhook), 36)
}

// ParseCursor reads the text of a cursor. An empty text is the start of the list. The
// error wraps ErrNotFound.
func ParseCursor(text string) (Cursor, error) {
	if text == "" {
		return Cursor{Seq: math.MaxUint64}, nil
	}
	seq, webhook, _ := strings.Cut(text, ".")
	s, err1 := strconv.ParseUint(seq, 36, 64)
	w, err2 := strconv.ParseUint(webhook, 36, 32)
	if err1 != nil || err2 != nil {
		return Cursor{}, fmt.Errorf("%q is no cursor of this list: %w", text, ErrNotFound)
	}
	return Cursor{s, WebhookID(w)}, nil
}
