package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/userhero/relay/console/scope"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

// server answers the API's requests. Its only own state is the number of open
// streams.
type server struct {
	relay     *scope.View
	queue     *scope.Reader
	version   string
	started   time.Time
	ending    func() bool
	heartbeat time.Duration
	log       *slog.Logger
	streams   atomic.Int64
}

// created is an answer with status 201.
type created struct{ value any }

// answer makes a handler that writes the value that do returns, or its error as a
// problem.
func (s *server) answer(do func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		value, err := do(r)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		status := http.StatusOK
		if c, ok := value.(created); ok {
			status, value = http.StatusCreated, c.value
		}
		s.write(w, r, status, "application/json", value)
	})
}

// fail answers with a problem.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	problem := Problem(r, err, s.log)
	s.write(w, r, problem.Status, "application/problem+json", problem)
}

// write sends a value as JSON.
func (s *server) write(w http.ResponseWriter, r *http.Request, status int, contentType string, value any) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false) // an event's body is shown byte for byte
	if err := encoder.Encode(value); err != nil {
		s.log.Error("encoding an API answer", "path", r.URL.Path, "error", err)
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // the client may have disconnected
}

// Problem is the answer to a request that failed with an error. An error that is
// not the client's is logged, and the answer does not hold its text.
func Problem(r *http.Request, err error, log *slog.Logger) (problem *event.Problem) {
	switch {
	case errors.As(err, &problem):
	case errors.Is(err, queue.ErrErased):
		problem = event.NewProblem(http.StatusGone, "This feedback was erased.")
	case errors.Is(err, queue.ErrRedacted):
		problem = event.NewProblem(http.StatusGone, "The text of this feedback was removed, so it is not delivered again.")
	case errors.Is(err, relay.ErrCannotErase):
		problem = event.NewProblem(http.StatusNotImplemented, err.Error())
	case errors.Is(err, queue.ErrNotFound):
		problem = event.NewProblem(http.StatusNotFound, "There is no such record, or it has expired.")
	case errors.Is(err, relay.ErrInvalid):
		problem = event.NewProblem(http.StatusUnprocessableEntity, strings.TrimPrefix(err.Error(), relay.ErrInvalid.Error()+": "))
	case errors.Is(err, scope.ErrReadOnly):
		problem = event.NewProblem(http.StatusForbidden, "This console is read-only.")
	case errors.Is(err, relay.ErrReadOnly):
		problem = event.NewProblem(http.StatusForbidden, err.Error())
	case errors.Is(err, relay.ErrExists), errors.Is(err, queue.ErrConflict):
		problem = event.NewProblem(http.StatusConflict, err.Error())
	case errors.Is(err, queue.ErrFull):
		problem = event.NewProblem(http.StatusServiceUnavailable, err.Error())
	case errors.Is(err, queue.ErrUnavailable):
		problem = event.NewProblem(http.StatusServiceUnavailable, "The store does not answer at the moment. Try again.")
	case errors.Is(err, queue.ErrClosed):
		problem = event.NewProblem(http.StatusServiceUnavailable, "The relay is starting or stopping. Try again.")
	default:
		log.Error("answering the API", "path", r.URL.Path, "error", err)
		problem = event.NewProblem(http.StatusInternalServerError, "Something went wrong in the relay. Look into Caddy's log.")
	}
	return problem
}

// Unprocessable returns the problem that the setting at a JSON pointer is not valid.
func Unprocessable(pointer string, err error) error {
	return event.NewProblem(http.StatusUnprocessableEntity, "The settings are not valid.", event.FieldError{Pointer: pointer, Detail: err.Error()})
}

// CursorProblem returns an error of reading a page of a list: the problem that the
// store does not know the cursor, if that is the reason.
func CursorProblem(err error, cursor string) error {
	if cursor != "" && errors.Is(err, queue.ErrNotFound) {
		return event.NewProblem(http.StatusBadRequest, "This API did not return this cursor. Start again without it.")
	}
	return err
}
