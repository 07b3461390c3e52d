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

// overheard is a submission on its way to the next handler. At most one of
// feedback and patch is nil; if both are, unread says why the submission cannot
// be read.
type overheard struct {
	arrived time.Time
	scope   scope
	makes   event.Type
	asked   bool // the client has been told to send the body, if it waits for that

	format format
	header http.Header
	body   []byte // without its coding

	feedback *event.Feedback // of a POST
	patch    *event.Patch    // of a PATCH or PUT, or of a POST that is no feedback by itself
	identity []byte
	unread   error
	trapped  bool // a robot has filled in the honeypot
}

func (s *overheard) release() {
	if s.feedback != nil {
		s.feedback.Release()
	}
}

// isSubmission reports whether a request may be a submission, by what stands
// before its body.
func isSubmission(r *http.Request) bool {
	switch r.Method {
	case http.MethodPost, http.MethodPatch, http.MethodPut:
		return r.Header.Get("Upgrade") == ""
	}
	return false
}

// overhear reads a submission and leaves it readable for the next handler. What
// is surely no feedback is not read, and passes without a deadline. The error is
// a *event.Problem if the body has not arrived within the timeout, or it wraps
// queue.ErrClosed if the stop has cut it off.
func (h *Handler) overhear(w http.ResponseWriter, r *http.Request, timeout time.Duration) (*overheard, error) {
	s := &overheard{arrived: time.Now(), makes: event.Created}
	if r.Method != http.MethodPost {
		s.makes = event.Updated
	}
	s.unread = h.hear(w, r, s, timeout)
	switch {
	case errors.Is(s.unread, queue.ErrClosed):
		return nil, s.unread
	case errors.Is(s.unread, os.ErrDeadlineExceeded):
		return nil, BodyProblem(s.unread)
	}
	if s.feedback != nil {
		s.trapped = h.trapped(s.feedback)
	}
	return s, nil
}

// hear reads the submission, and returns why it cannot.
func (h *Handler) hear(w http.ResponseWriter, r *http.Request, s *overheard, timeout time.Duration) error {
	var err error
	s.header = r.Header
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
	s.asked = true
	if s.body, err = readAhead(w, r, h.maxBody, timeout); err != nil {
		return err
	}
	if coding == "gzip" {
		if s.body, err = h.inflateBody(s.body); err != nil {
			return err
		}
	}
	return s.read()
}

// readAgain makes the feedback anew, as the visitor wrote it.
func (h *Handler) readAgain(s *overheard) error {
	s.release()
	if err := s.read(); err != nil {
		return err
	}
	if h.honeypot != "" {
		s.feedback.Take(h.honeypot)
	}
	return nil
}

// key is the idempotency key that the header names, within what the names say. An
// unusable one is none: the app has accepted the submission all the same.
func (s *overheard) key(header http.Header, names ...string) queue.Key {
	key, err := idempotencyKey(header, s.identity, names...)
	if err != nil {
		return queue.Key{}
	}
	return key
}

// read parses the body. A POST without a message is no feedback, but may change
// feedback that the next handler names.
func (s *overheard) read() (err error) {
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

// readAhead reads the body within the timeout and puts it back. If it is larger
// than max or breaks off, the next handler gets what was read and then the rest,
// or the same error. The buffer is not one that is used again: a transport may
// read a body until after the answer.
func readAhead(w http.ResponseWriter, r *http.Request, max int64, timeout time.Duration) ([]byte, error) {
	var buf bytes.Buffer
	limited := io.LimitedReader{R: r.Body, N: max + 1} // Promise 4: a submission is read to max_body.
	resume := deadline(w, r, timeout)
	_, err := buf.ReadFrom(&limited)
	resume()
	rest := r.Body
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(buf.Bytes()), restOf(rest, err)), rest}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, queue.ErrClosed):
		return nil, err
	case err != nil:
		return nil, BodyProblem(err)
	case limited.N == 0:
		return nil, tooLarge(max)
	}
	return buf.Bytes(), nil
}

// deadline bounds the reading of a body. What it returns ends that: then the
// server's own deadline counts (read_body), if there is one.
func deadline(w http.ResponseWriter, r *http.Request, timeout time.Duration) (resume func()) {
	var own time.Time // none
	if server, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok && server.ReadTimeout > 0 {
		own = time.Now().Add(server.ReadTimeout)
		timeout = min(timeout, server.ReadTimeout)
	}
	connection := http.NewResponseController(w)
	if err := connection.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return func() {} // a module that hides the connection's deadlines; the server's own is what is left
	}
	return func() { _ = connection.SetReadDeadline(own) }
}

// restOf is what follows what was read: the reader, or its error.
func restOf(r io.Reader, err error) io.Reader {
	if err == nil {
		return r
	}
	return errReader{err}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// inflateBody is the text of a gzip body: as long as a body may be, at most.
func (h *Handler) inflateBody(coded []byte) ([]byte, error) {
	text, err := inflate(coded, h.maxBody+1)
	switch {
	case err != nil:
		return nil, event.NewProblem(http.StatusBadRequest, "The body is not valid gzip.")
	case int64(len(text)) > h.maxBody:
		return nil, tooLarge(h.maxBody)
	}
	return text, nil
}
