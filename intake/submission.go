package intake

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

// submission is a submission on its way to the next handler. At most one of feedback
// and patch is nil; if both are, invalid says why.
type submission struct {
	arrived   time.Time
	scope     scope
	makes     event.Type
	continued bool // the client has been told to send the body, if it waits for that

	format format
	header http.Header // without a Content-Encoding that can be read
	body   []byte      // without its coding

	counted *countedReader // of the body, as it came

	feedback *event.Feedback // of a POST
	patch    *event.Patch    // of a PATCH or PUT, or of a POST that is no feedback by itself
	identity []byte          // what a repeat must equal
	invalid  error           // why the body is no feedback and no change
	caught   bool            // the honeypot is filled in
}

// release gives back what the submission holds. It may be called twice.
func (s *submission) release() {
	s.releaseFeedback()
	s.counted.giveBack()
}

func (s *submission) releaseFeedback() {
	if s.feedback != nil {
		s.feedback.Release()
	}
}

// mayBeSubmission reports whether a request can be a submission, by what comes before
// its body.
func mayBeSubmission(r *http.Request) bool {
	switch r.Method {
	case http.MethodPost, http.MethodPatch, http.MethodPut:
		return r.Header.Get("Upgrade") == ""
	}
	return false
}

// readSubmission reads a submission and leaves its body readable for the next handler.
// A body that cannot be feedback is not read, and passes without a deadline. The error
// is a *event.Problem if the body has not arrived within the timeout, or it wraps
// queue.ErrClosed if the stop has cut it off.
func (h *Handler) readSubmission(w http.ResponseWriter, r *http.Request, timeout time.Duration) (*submission, error) {
	s := &submission{arrived: time.Now(), makes: event.Created, header: r.Header, counted: h.memory.counted(r.Body)}
	if r.Method != http.MethodPost {
		s.makes = event.Updated
	}
	s.invalid = h.readInto(s, w, r, timeout)
	switch {
	case errors.Is(s.invalid, queue.ErrClosed), errors.Is(s.invalid, queue.ErrFull):
		s.counted.giveBack()
		return nil, s.invalid
	case errors.Is(s.invalid, os.ErrDeadlineExceeded):
		s.counted.giveBack()
		return nil, BodyProblem(s.invalid)
	}
	s.caught = s.feedback != nil && h.takeHoneypot(s.feedback)
	return s, nil
}

// readInto reads and parses the body, or returns why it cannot.
func (h *Handler) readInto(s *submission, w http.ResponseWriter, r *http.Request, timeout time.Duration) (err error) {
	coding := codingOf(r.Header)
	if coding == "gzip" {
		s.header = r.Header.Clone()
		s.header.Del("Content-Encoding")
	}
	if s.format, err = formatOf(s.header); err != nil {
		return err
	}
	if s.makes == event.Updated && s.format != formatJSON {
		return unsupported(r.Header.Get("Content-Type"))
	}
	if s.format == formatMultipart {
		s.format = formatUpload // the files are the application's
	}
	if r.ContentLength > h.maxBody {
		return tooLarge(h.maxBody)
	}
	s.continued = true
	if s.body, err = peekBody(w, r, s.counted, h.maxBody, timeout); err != nil {
		return err
	}
	if coding == "gzip" {
		if s.body, err = inflateBody(s.body, h.maxBody); err != nil {
			return err
		}
	}
	return s.parse()
}

// parse parses the body. A POST without a message is no feedback, but may change
// feedback that the next handler names.
func (s *submission) parse() (err error) {
	if s.makes == event.Updated {
		s.identity = s.body
		s.patch, err = event.ParsePatch(s.body)
		return err
	}
	s.feedback, s.identity, err = s.format.parse(s.body, s.header)
	if err != nil && s.format == formatJSON {
		s.patch, _ = event.ParsePatch(s.body)
	}
	return err
}

// parseAgain makes the feedback again, as the visitor wrote it.
func (h *Handler) parseAgain(s *submission) error {
	s.releaseFeedback()
	if err := s.parse(); err != nil {
		return err
	}
	if h.honeypot != "" {
		s.feedback.Take(h.honeypot)
	}
	return nil
}

// key returns the idempotency key in a header, within a scope of names. A key that
// cannot be used is ignored: the app has accepted the submission all the same.
func (s *submission) key(header http.Header, names ...string) queue.Key {
	key, err := idempotencyKey(header, s.identity, names...)
	if err != nil {
		return queue.Key{}
	}
	return key
}

// peekBody reads the body within the timeout and puts it back. If it is larger than max
// or breaks off, the next handler gets what was read and then the rest, or the same
// error. The buffer comes from no pool: a transport may read a body until after the
// answer.
func peekBody(w http.ResponseWriter, r *http.Request, counted *countedReader, max int64, timeout time.Duration) ([]byte, error) {
	var buf bytes.Buffer
	limited := io.LimitedReader{R: counted, N: max + 1} // Promise 4: a submission is read to max_body.
	resume := setReadTimeout(w, r, timeout)
	_, err := buf.ReadFrom(&limited)
	resume()
	var rest io.Reader = r.Body
	if err != nil {
		rest = errReader{err}
	}
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(buf.Bytes()), rest), r.Body}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, queue.ErrClosed), errors.Is(err, queue.ErrFull):
		return nil, err
	case err != nil:
		return nil, BodyProblem(err)
	case limited.N == 0:
		return nil, tooLarge(max)
	}
	return buf.Bytes(), nil
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// setReadTimeout bounds the time for reading a body. resume ends that: then the server's
// own deadline counts (read_body), if there is one.
func setReadTimeout(w http.ResponseWriter, r *http.Request, timeout time.Duration) (resume func()) {
	var own time.Time // none
	if server, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok && server.ReadTimeout > 0 {
		own = time.Now().Add(server.ReadTimeout)
		timeout = min(timeout, server.ReadTimeout)
	}
	connection := http.NewResponseController(w)
	if err := connection.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return func() {} // a module around this one hides the connection; the server's own deadline counts
	}
	return func() { _ = connection.SetReadDeadline(own) }
}

// inflateBody returns the text of a gzip body. It has at most max bytes, as any body.
func inflateBody(coded []byte, max int64) ([]byte, error) {
	text, err := inflate(coded, max+1)
	switch {
	case err != nil:
		return nil, event.NewProblem(http.StatusBadRequest, "The body is not valid gzip.")
	case int64(len(text)) > max:
		return nil, tooLarge(max)
	}
	return text, nil
}
