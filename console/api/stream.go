package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/relay/feed"
)

const (
	// defaultHeartbeat is the time between two comments on a silent stream. Proxies
	// close connections that are silent for a minute, some after half of that.
	defaultHeartbeat = 15 * time.Second
	// streamPace is the least time between two writes to a stream: a page costs a busy
	// relay at most ten writes a second.
	streamPace = 100 * time.Millisecond
	// endingPoll is how often a stream calls Options.Ending. Caddy waits for open
	// requests before it stops its apps.
	endingPoll = 250 * time.Millisecond
	// streamWrite bounds one write to a client that does not read.
	streamWrite = 10 * time.Second
	// maxStreams bounds the open streams.
	maxStreams = 64
)

// stream sends what happens as server-sent events: accepted, attempt, state,
// activity, and lost if there is a gap. It keeps no past: a client that reconnects
// with a Last-Event-ID gets lost, and reads the lists again.
//
// It ends with the request, with the relay, and when Options.Ending reports true.
func (s *server) stream(w http.ResponseWriter, r *http.Request) {
	if s.streams.Add(1) > maxStreams {
		s.streams.Add(-1)
		w.Header().Set("Retry-After", "10")
		s.fail(w, r, event.NewProblem(http.StatusServiceUnavailable, fmt.Sprintf("There are already %d open streams. Close one, or try again later.", maxStreams)))
		return
	}
	defer s.streams.Add(-1)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Accel-Buffering", "no")
	if r.Method == http.MethodHead {
		return
	}
	out := http.NewResponseController(w)
	sub := s.relay.Subscribe()
	defer sub.Close()
	b := bytes.NewBufferString("retry: 2000\n: connected\n\n")
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		writeStreamed(b, "", "lost", StreamedLost{Since: last})
	}
	heartbeat := time.NewTicker(s.heartbeat)
	defer heartbeat.Stop()
	ending := time.NewTicker(endingPoll)
	defer ending.Stop()
	var written time.Time
	for {
		if b.Len() > 0 {
			_ = out.SetWriteDeadline(time.Now().Add(streamWrite)) // instead of the server's, which counts from the start of the answer
			if _, err := w.Write(b.Bytes()); err != nil || out.Flush() != nil {
				return
			}
			b.Reset()
			written = time.Now()
		}
		select {
		case <-r.Context().Done():
			return
		case <-sub.Done():
			return
		case <-ending.C:
			if s.ending() {
				return
			}
			continue
		case <-heartbeat.C:
			b.WriteString(": still here\n\n")
			continue
		case <-sub.Ready():
		}
		// Send together what happens within streamPace.
		select {
		case <-r.Context().Done():
			return
		case <-time.After(streamPace - time.Since(written)):
		}
		happened, lost := sub.Take()
		if lost > 0 {
			writeStreamed(b, "", "lost", StreamedLost{Count: lost})
		}
		for i := range happened {
			s.writeHappening(b, &happened[i])
		}
	}
}

func (s *server) writeHappening(b *bytes.Buffer, h *feed.Happening) {
	at := moment(h.At)
	var data any
	switch h.Kind {
	case feed.Accepted:
		data = StreamedAccepted{At: at, EventID: h.Event.String(), Type: h.Type,
			FeedbackID: h.Feedback.ID, ProjectID: h.Feedback.Project, Deliveries: h.Deliveries}
	case feed.Attempt:
		v := StreamedAttempt{
			At: at, DeliveryID: h.Delivery.String(), EventID: h.Event.String(), Type: h.Type,
			FeedbackID: h.Feedback.ID, ProjectID: h.Feedback.Project,
			Webhook: h.Webhook, State: h.State.String(), Number: h.Number, DurationMS: milliseconds(h.Duration),
			Status: h.Status, Error: h.Error, NextAttemptAt: moment(h.Next),
		}
		if h.Error != "" {
			v.ErrorClass = h.Class
		}
		data = v
	case feed.State:
		data = StreamedState{At: at, Webhook: h.Webhook, From: h.From, To: h.To, Reason: h.Reason}
	case feed.Activity:
		data = StreamedActivity{At: at, What: h.What, Who: h.Who, Webhook: h.Webhook, Detail: h.Detail}
	default:
		return
	}
	// The start time makes ids of different runs differ.
	id := strconv.FormatInt(s.started.UnixMilli(), 36) + "-" + strconv.FormatUint(h.ID, 10)
	writeStreamed(b, id, h.Kind, data)
}

// writeStreamed writes one event of a stream (HTML, §9.2.6). JSON has no line
// break, so the data is one line.
func writeStreamed(b *bytes.Buffer, id, kind string, data any) {
	encoded, err := json.Marshal(data)
	if err != nil {
		panic(err) // strings, numbers and times of this century always marshal
	}
	if id != "" {
		b.WriteString("id: " + id + "\n")
	}
	b.WriteString("event: " + kind + "\ndata: ")
	b.Write(encoded)
	b.WriteString("\n\n")
}
