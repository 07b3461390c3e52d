package intake

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"unicode/utf8"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

// scope is whose feedback a request may create, read and change.
type scope struct {
	// project is the handler's. Empty: the handler has none, and a submission names
	// its own.
	project string
	widget  string // the widgetId of submissions that have none
}

// scopeOf resolves the handler's project and widget for a request.
func (h *Handler) scopeOf(r *http.Request) (s scope, err error) {
	if s.project, err = h.project(r); err != nil || !utf8.ValidString(s.project) {
		return scope{}, event.NewProblem(http.StatusBadRequest, "This address belongs to no project. Check the host and the path of the address.")
	}
	if s.widget, err = h.widget(r); err != nil {
		return scope{}, event.NewProblem(http.StatusBadRequest, "This address belongs to no widget. Check the host and the path of the address.")
	}
	return s, nil
}

// admit refuses feedback of a project that is not the handler's.
func (s scope) admit(project string) error {
	if s.project == "" || project == s.project {
		return nil
	}
	return event.NewProblem(http.StatusUnprocessableEntity, "This address takes feedback of another project.", // Promise 6: a directive takes and changes feedback of its project only.
		event.FieldError{Pointer: "/projectId", Detail: "is another project; leave it out or send " + s.project})
}

// of returns the project that an update belongs to: the handler's, or the one that its
// body names. known is false if there is neither.
func (s scope) of(patch *event.Patch) (project string, known bool, err error) {
	project, known = patch.Project()
	if known {
		return project, true, s.admit(project)
	}
	return s.project, s.project != "", nil
}

var (
	// errNotHeld: no project, or not the one in question, holds the feedback.
	errNotHeld error = event.NewProblem(http.StatusNotFound, "There is no feedback with this id, or it has expired.")
	// errAmbiguous: several projects hold feedback with the id, and none is named.
	errAmbiguous error = event.NewProblem(http.StatusConflict, "Several projects have feedback with this id. Name one as projectId.")
)

// find returns the feedback that an update is for. If no project is known, one project
// alone must have the id.
func (h *Handler) find(ctx context.Context, s scope, id string, patch *event.Patch) (queue.FeedbackID, error) {
	project, known, err := s.of(patch)
	if err == nil && !known {
		project, err = h.onlyProject(ctx, id)
	}
	return queue.FeedbackID{Project: project, ID: id}, err
}

// onlyProject returns the one project that holds feedback with this id; else the error
// is errNotHeld or errAmbiguous.
func (h *Handler) onlyProject(ctx context.Context, id string) (string, error) {
	projects, err := lookUp(h.relay, func(s Store) ([]string, error) { return s.Projects(ctx, id, 2) })
	switch {
	case err != nil:
		return "", err
	case len(projects) == 0:
		_, err := h.latest(ctx, queue.FeedbackID{ID: id}) // erased, perhaps
		return "", cmp.Or(err, errNotHeld)
	case len(projects) > 1:
		return "", errAmbiguous
	}
	return projects[0], nil
}

// latest returns the newest event of a feedback. The error is errNotHeld if nobody holds
// the feedback.
func (h *Handler) latest(ctx context.Context, id queue.FeedbackID) (queue.Event, error) {
	e, err := lookUp(h.relay, func(s Store) (queue.Event, error) { return s.Latest(ctx, id) })
	if errors.Is(err, queue.ErrNotFound) {
		err = errNotHeld
	}
	return e, err
}
