package jetstreamqueue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/userhero/relay/queue"
)

// get asks the leader of a stream for one message, so it sees everything that was
// acknowledged before. A replica that answers directly may lag behind.
func (q *Queue) get(ctx context.Context, stream string, request getRequest) (*message, error) {
	r, err := q.ask(ctx, "reading from stream "+stream, "STREAM.MSG.GET."+stream, request)
	if isCode(err, codeNoMessage) {
		return nil, queue.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	header, err := parseHeader(r.Message.Header)
	if err != nil {
		return nil, err
	}
	return &message{seq: r.Message.Seq, subject: r.Message.Subject, header: header, data: r.Message.Data, at: r.Message.Time}, nil
}

// reply holds what this package reads of the answers of JetStream's API.
type reply struct {
	Error   *jetstream.APIError `json:"error"`
	Message struct {
		Subject string    `json:"subject"`
		Seq     uint64    `json:"seq"`
		Header  []byte    `json:"hdrs"`
		Data    []byte    `json:"data"`
		Time    time.Time `json:"time"`
	} `json:"message"`
	State struct {
		Messages uint64            `json:"messages"`
		Bytes    uint64            `json:"bytes"`
		First    uint64            `json:"first_seq"`
		Last     uint64            `json:"last_seq"`
		Subjects map[string]uint64 `json:"subjects"`
	} `json:"state"`
}

// ask sends a request to JetStream's API and returns the answer.
func (q *Queue) ask(ctx context.Context, doing, subject string, request any) (r reply, err error) {
	body, err := json.Marshal(request)
	if err != nil {
		return r, err
	}
	err = q.insist(ctx, doing, func(ctx context.Context) error {
		answer, err := q.nc.RequestWithContext(ctx, "$JS.API."+subject, body)
		if err != nil {
			return err
		}
		r = reply{}
		if err := json.Unmarshal(answer.Data, &r); err != nil {
			return fmt.Errorf("the server's answer cannot be read: %w", err)
		}
		if r.Error != nil {
			return r.Error
		}
		return nil
	})
	return r, err
}

// getRequest names the message to read.
type getRequest struct {
	Seq  uint64 `json:"seq,omitempty"`
	Last string `json:"last_by_subj,omitempty"`
	Next string `json:"next_by_subj,omitempty"` // the first one on this subject from Seq on
}

// last reads the last message on a subject. It returns queue.ErrNotFound if there is none.
func (q *Queue) last(ctx context.Context, stream, subject string) (*message, error) {
	return q.get(ctx, stream, getRequest{Last: subject})
}

// parseHeader reads the stored header of a message.
func parseHeader(b []byte) (nats.Header, error) {
	if len(b) == 0 {
		return nats.Header{}, nil
	}
	h, err := nats.DecodeHeadersMsg(b)
	if err != nil {
		return nil, fmt.Errorf("a message's header cannot be read: %w", err)
	}
	return h, nil
}

// The most that one answer to rangeFrom holds.
const (
	rangeMessages = 256
	rangeBytes    = 4 << 20
)

// rangeFrom reads messages in order, from a sequence number on, up to rangeMessages and
// rangeBytes. Any replica may answer, and it may lag behind.
func (q *Queue) rangeFrom(ctx context.Context, stream, subject string, from uint64, most int) ([]*message, error) {
	return q.direct(ctx, stream, directRequest{Seq: max(from, 1), Next: subject, Batch: min(most, rangeMessages), MaxBytes: rangeBytes})
}

// lastOf reads the last messages on several subjects. Any replica may answer.
func (q *Queue) lastOf(ctx context.Context, stream string, subjects []string) ([]*message, error) {
	if len(subjects) == 0 {
		return nil, nil
	}
	all, err := q.direct(ctx, stream, directRequest{MultiLast: subjects})
	if errors.Is(err, errTooMany) && len(subjects) > 1 {
		half := len(subjects) / 2
		a, err := q.lastOf(ctx, stream, subjects[:half])
		if err != nil {
			return nil, err
		}
		b, err := q.lastOf(ctx, stream, subjects[half:])
		return append(a, b...), err
	}
	return all, err
}

type directRequest struct {
	Seq       uint64   `json:"seq,omitempty"`
	Next      string   `json:"next_by_subj,omitempty"`
	Batch     int      `json:"batch,omitempty"`
	MaxBytes  int      `json:"max_bytes,omitempty"`
	MultiLast []string `json:"multi_last,omitempty"`
}

var errTooMany = errors.New("more messages than one answer holds")

// direct makes a direct request for several messages.
func (q *Queue) direct(ctx context.Context, stream string, request directRequest) (all []*message, err error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	err = q.insist(ctx, "reading from stream "+stream, func(ctx context.Context) error {
		all = nil
		inbox := q.nc.NewRespInbox()
		sub, err := q.nc.SubscribeSync(inbox)
		if err != nil {
			return err
		}
		defer func() { _ = sub.Unsubscribe() }()
		if err := q.nc.PublishRequest("$JS.API.DIRECT.GET."+stream, inbox, body); err != nil {
			return err
		}
		for {
			m, err := sub.NextMsgWithContext(ctx)
			if err != nil {
				return err
			}
			switch status := m.Header.Get("Status"); status {
			case "":
			case "204": // the end
				return nil
			case "404":
				return nil
			case "413":
				return errTooMany
			case "503":
				return nats.ErrNoResponders
			default:
				return fmt.Errorf("the server answers %s %s", status, m.Header.Get("Description"))
			}
			one, err := parseDirect(m)
			if err != nil {
				return err
			}
			all = append(all, one)
		}
	})
	return all, err
}

func parseDirect(m *nats.Msg) (*message, error) {
	seq, err1 := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	at, err2 := time.Parse(time.RFC3339Nano, m.Header.Get("Nats-Time-Stamp"))
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("the server's answer cannot be read: %w", err)
	}
	return &message{seq: seq, subject: m.Header.Get("Nats-Subject"), header: m.Header, data: m.Data, at: at}, nil
}

// streamState is the state of a stream as its leader reports it.
type streamState struct {
	first, last, messages, bytes uint64
	subjects                     map[string]uint64
}

// info reads the state of a stream from its leader. With a filter, the state includes the
// subjects that match, at most 100,000 of them.
func (q *Queue) info(ctx context.Context, stream, filter string) (streamState, error) {
	request := struct {
		Filter string `json:"subjects_filter,omitempty"`
	}{filter}
	r, err := q.ask(ctx, "asking about stream "+stream, "STREAM.INFO."+stream, request)
	return streamState{r.State.First, r.State.Last, r.State.Messages, r.State.Bytes, r.State.Subjects}, err
}

// remove deletes one message. It returns no error if the message is already deleted.
func (q *Queue) remove(ctx context.Context, stream string, seq uint64) error {
	return q.manage(ctx, "STREAM.MSG.DELETE."+stream, map[string]any{"seq": seq, "no_erase": true})
}

// purge selects messages to remove from a stream: those before a sequence number, those on
// a subject, or all except the newest ones on it.
type purge struct {
	Before  uint64 `json:"seq,omitempty"`
	Subject string `json:"filter,omitempty"`
	Keep    uint64 `json:"keep,omitempty"`
}

func (q *Queue) purge(ctx context.Context, stream string, p purge) error {
	return q.manage(ctx, "STREAM.PURGE."+stream, p)
}

func (q *Queue) manage(ctx context.Context, subject string, request any) error {
	_, err := q.ask(ctx, "removing messages", subject, request)
	if isCode(err, codeNoMessage) || isCode(err, codeNoSequence) || isCode(err, codeDeleteFailed) {
		return nil
	}
	return err
}

const (
	// statsWait is how long Stats waits at most until this relay has read all messages.
	statsWait = 250 * time.Millisecond
	// statsTry is how long Stats waits at most for the servers.
	statsTry = time.Second
)

// Stats implements queue.Reader. If the servers do not answer, it returns the counts of the
// messages that this relay has read so far.
func (q *Queue) Stats(ctx context.Context) queue.Stats {
	ctx, cancel := context.WithTimeout(ctx, statsTry)
	defer cancel()
	s, _ := q.stats(ctx)
	return s
}

// stats returns the counts over all relays. With an error it returns the counts of the
// messages that this relay has read.
func (q *Queue) stats(ctx context.Context) (queue.Stats, error) {
	began := time.Now()
	st := queue.Stats{
		Webhooks: make(map[queue.WebhookID]queue.WebhookStats), DiskFree: -1,
		Commit: time.Duration(q.commit.Load()), Shared: true, Unavailable: q.unavailable.Load(),
	}
	var events streamState
	err := queue.ErrUnavailable
	if q.nc.IsConnected() {
		events, err = q.info(ctx, q.names.events(), "")
	}
	var state streamState
	complete := false
	if err == nil {
		state, err = q.info(ctx, q.names.state(), "")
	}
	if err == nil {
		q.size.note(events.bytes)
		st.Events, st.DiskBytes = int64(events.messages), int64(events.bytes+state.bytes)
		q.ledger.noteSizes(st.Events, st.DiskBytes)
		complete, err = q.ledger.wait(ctx, events.last, state.last, statsWait)
		// A removed message is never read, so wait cannot see it. The counts are complete
		// too if both followers are reading.
		complete = complete || err == nil && q.isFollowed(q.names.events()) && q.isFollowed(q.names.state())
	} else {
		st.Events, st.DiskBytes = q.ledger.sizes()
	}
	st.AsOf = q.ledger.asOf(began, complete)
	now := time.Now()
	for id := range q.registry.all() {
		var w queue.WebhookStats
		if l := q.laneOf(id); l != nil && l.Owned() {
			w.OldestDue, w.Owned = l.oldestDue(now), true
		} else if owner, ok := q.peers.owner(laneLock(id)); ok {
			w.OldestDue = q.localTime(owner.OldestDue)
		}
		q.ledger.mu.Lock()
		if a := q.ledger.accounts[id]; a != nil {
			w.Counts = a.counts()
		}
		q.ledger.mu.Unlock()
		st.Webhooks[id] = w
	}
	return st, err
}

// room returns queue.ErrFull if the events take MaxDisk or more.
func (q *Queue) room() error {
	most := q.limit().MaxDisk
	if have := q.size.get(); most > 0 && have >= most {
		return fmt.Errorf("%w: the events have %d bytes and max_disk is %d; raise it or shorten the retention", queue.ErrFull, have, most)
	}
	return nil
}
