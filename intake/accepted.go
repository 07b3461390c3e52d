package intake

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

// accepted is a submission that is answered 202.
type accepted struct {
	format   format
	answer   []byte // JSON
	replayed bool   // a repeat: the answer is that of the first submission
	caught   bool   // by the honeypot; there is no event
	trace    queue.TraceContext
}

// with adds the receipt of the submission of this feedback. For a repeat feedback is not used.
func (a accepted) with(receipt queue.Receipt, feedback *event.Feedback) (accepted, error) {
	a.trace, a.replayed = receipt.Event.Trace, receipt.Replayed
	if a.replayed {
		var err error
		a.answer, err = firstAnswer(receipt)
		return a, err
	}
	a.answer = answerTo(feedback)
	return a, nil
}

// answerTo returns the JSON that tells the client how to find its feedback again.
func answerTo(feedback *event.Feedback) []byte {
	b := append(make([]byte, 0, 128), `{"id":`...)
	b = feedback.AppendText(b, "id")
	b = append(b, `,"status":`...)
	b = feedback.AppendText(b, "status")
	b = append(b, `,"createdAt":`...)
	b = feedback.AppendText(b, "createdAt")
	return append(b, '}', '\n')
}

// firstAnswer returns the answer that the first submission got, for a repeat.
func firstAnswer(receipt queue.Receipt) ([]byte, error) {
	switch {
	case len(receipt.Answer) > 0:
		return receipt.Answer, nil
	case receipt.Event.ID.IsZero():
		return nil, event.NewProblem(http.StatusGone, "This submission was accepted before, and its feedback has been removed since.")
	}
	// The first submission was stored by a version that kept no answers.
	first, err := event.Stored(receipt.Event.Body)
	if err != nil {
		return nil, fmt.Errorf("reading event %s: %w", receipt.Event.ID, err)
	}
	defer first.Release()
	return answerTo(first), nil
}

// writeAnswer answers 202. A browser that has sent a form without script gets
// something to show.
func writeAnswer(w http.ResponseWriter, r *http.Request, f format, answer []byte) {
	if f.isForm() && WantsHTML(r.Header) {
		writeThanks(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusAccepted)
	_, _ = w.Write(answer) // the client may have gone, the event is stored
}

// WantsHTML reports whether a browser shows the answer to a person: its Accept field
// names text/html, which scripts do not.
func WantsHTML(h http.Header) bool {
	for _, accept := range h.Values("Accept") {
		for part := range strings.SplitSeq(accept, ",") {
			kind, _, _ := strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(kind), "text/html") {
				return true
			}
		}
	}
	return false
}
