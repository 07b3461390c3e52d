package jetstreamqueue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/userhero/relay/queue"
)

// dated is the stored form of an activity or of a submission that a honeypot caught.
type dated struct {
	At   time.Time `json:"at"`
	Data []byte    `json:"data"`
}

func (q *Queue) appendDated(ctx context.Context, subject string, d dated) error {
	if err := q.isClosed(); err != nil {
		return err
	}
	_, err := q.publishJSON(ctx, subject, d, whatever)
	return err
}

// AppendActivity implements queue.Queue.
func (q *Queue) AppendActivity(ctx context.Context, a queue.Activity) error {
	return q.appendDated(ctx, q.names.activity(), dated{a.At.Round(0).UTC(), a.Data})
}

// Activities implements queue.Queue. The ids of activities are in the order in which they
// were recorded.
func (q *Queue) Activities(ctx context.Context, limit int, cursor string) (page queue.Page[queue.Activity], err error) {
	if err := q.isClosed(); err != nil {
		return page, err
	}
	from := uint64(1<<64 - 1)
	if cursor != "" {
		number, ok := strings.CutPrefix(cursor, "act_")
		if from, err = strconv.ParseUint(number, 16, 64); !ok || err != nil {
			return page, fmt.Errorf("%q is no cursor of this list: %w", cursor, queue.ErrNotFound)
		}
	}
	subject := q.names.activity()
	last, err := q.last(ctx, q.names.state(), subject)
	if err != nil {
		return page, ignoreNotFound(err)
	}
	end := min(from, last.seq)
	for width := uint64(256); end > 0; width *= 2 {
		begin := end - min(end-1, width)
		chunk, err := q.between(ctx, subject, begin, end)
		if err != nil {
			return page, err
		}
		for _, m := range slices.Backward(chunk) {
			var d dated
			if err := json.Unmarshal(m.data, &d); err != nil {
				return page, fmt.Errorf("activity %d cannot be read: %w", m.seq, err)
			}
			a := queue.Activity{ID: fmt.Sprintf("act_%016x", m.seq), At: d.At, Data: d.Data}
			if retention := q.limit().Retention; retention > 0 && time.Since(m.at) >= retention {
				return page, nil
			}
			if len(page.Items) == queue.PageSize(limit) {
				page.Next = a.ID
				return page, nil
			}
			page.Items = append(page.Items, a)
		}
		if begin == 1 {
			break
		}
		end = begin - 1
	}
	return page, nil
}

// between reads the messages on a subject from begin to end.
func (q *Queue) between(ctx context.Context, subject string, begin, end uint64) (all []*message, err error) {
	for at := begin; at <= end; {
		messages, err := q.rangeFrom(ctx, q.streamOf(subject), subject, at, rangeMessages)
		if err != nil || len(messages) == 0 {
			return all, err
		}
		for _, m := range messages {
			if m.seq > end {
				return all, nil
			}
			all = append(all, m)
			at = m.seq + 1
		}
	}
	return all, nil
}

// KeepCaught implements queue.Queue.
func (q *Queue) KeepCaught(ctx context.Context, c queue.Caught) error {
	return q.appendDated(ctx, q.names.caught(), dated{c.At.Truncate(time.Millisecond).UTC(), c.Body})
}

// Caught implements queue.Queue.
func (q *Queue) Caught(ctx context.Context) (all []queue.Caught, err error) {
	if err := q.isClosed(); err != nil {
		return nil, err
	}
	messages, err := q.between(ctx, q.names.caught(), 1, 1<<64-2)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		var d dated
		if err := json.Unmarshal(m.data, &d); err != nil {
			return nil, fmt.Errorf("what a honeypot caught cannot be read: %w", err)
		}
		if time.Since(d.At) < queue.CaughtFor {
			all = append(all, queue.Caught{At: d.At, Body: d.Data})
		}
	}
	slices.SortStableFunc(all, func(a, b queue.Caught) int { return b.At.Compare(a.At) })
	return all[:min(len(all), queue.MaxCaught)], nil
}

// ignoreNotFound returns nil if err is queue.ErrNotFound, and err otherwise.
func ignoreNotFound(err error) error {
	if errors.Is(err, queue.ErrNotFound) {
		return nil
	}
	return err
}

// NoteBackup records that a backup of the store, made at a time, was read back and is
// complete. It does nothing if a newer backup is recorded already.
func (q *Queue) NoteBackup(at time.Time) error {
	if err := q.isClosed(); err != nil {
		return err
	}
	if !at.After(q.LastBackup()) {
		return nil
	}
	m, err := messageWith(q.names.backup(), at.UTC())
	if err != nil {
		return err
	}
	if _, err := q.publish(q.patient(q.closed), m, whatever); err != nil {
		return err
	}
	q.enterBackup(m.Data)
	return nil
}

// enterBackup enters when the last backup was made.
func (q *Queue) enterBackup(data []byte) {
	var at time.Time
	if err := json.Unmarshal(data, &at); err != nil {
		q.o.Logger.Error("when the last backup was made cannot be read", "error", err)
		return
	}
	if at.After(q.LastBackup()) {
		q.backup.Store(&at)
	}
}

// LastBackup implements queue.BackedUp.
func (q *Queue) LastBackup() time.Time {
	if at := q.backup.Load(); at != nil {
		return *at
	}
	return time.Time{}
}
