package intake

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
)

// nowhere is a Relay that stores at once, and nothing.
type nowhere struct{ Relay }

func (nowhere) Accept(_ context.Context, e queue.Entry, _ http.Header) (queue.Receipt, error) {
	return queue.Receipt{Event: queue.Event{Type: e.Type, Feedback: e.Feedback, Created: e.Created, Body: e.Body}}, nil
}

// unread is a writer that throws the answer away.
type unread struct {
	header http.Header
	status int
}

func (w *unread) Header() http.Header             { return w.header }
func (w *unread) WriteHeader(status int)          { w.status = status }
func (w *unread) Write(p []byte) (int, error)     { return len(p), nil }
func (w *unread) SetReadDeadline(time.Time) error { return nil }

// BenchmarkDocumentAccepted measures what the handler does with a submission of
// 1 KiB, without the server before it and the store behind it.
func BenchmarkDocumentAccepted(b *testing.B) {
	h, err := New(Config{Relay: nowhere{}, Observer: newCounts(), Project: fixed("proj_bench")})
	if err != nil {
		b.Fatal(err)
	}
	const text = `{"message":"The export button does not work.","category":"bug","rating":2,"context":{"pageUrl":"/dashboard/reports",` +
		`"browser":"Chrome","browserVersion":"120","os":"macOS","deviceType":"desktop","viewport":{"width":1920,"height":1080},` +
		`"timezone":"America/New_York","locale":"en-US","country":"US"},"metadata":{"notes":"`
	submission := text + strings.Repeat("n", 1024-len(text)-3) + `"}}`
	body := strings.NewReader(submission)
	r := httptest.NewRequest(http.MethodPost, "/feedback", http.NoBody)
	r.Header.Set("Content-Type", "application/json")
	w := &unread{header: make(http.Header)}
	b.ReportAllocs()
	for b.Loop() {
		body.Reset(submission)
		r.Body, r.ContentLength = io.NopCloser(body), int64(len(submission))
		clear(w.header)
		if h.ServeHTTP(w, r); w.status != http.StatusAccepted {
			b.Fatal(w.status)
		}
	}
}
