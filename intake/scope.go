package intake

import (
	"context"
	"net/http"
	"unicode/utf8"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

// scope is whose feedback a request may bring in, read and change.
type scope struct {
	// project is the directive's. Empty: the directive has none, and a submission
	// names its own.
	project string
	widget  string // the widgetId of submissions that have none
}

// scopeOf resolves the directive's project and widget for a request.
func (h *Handler) scopeOf(r *http.Request) (s scope, err error) {
	if s.project, err = h.project(r); err != nil || !utf8.ValidString(s.project) {
		return scope{}, event.NewProblem(http.StatusBadRequest, "This address belongs to no project. Check the host and the path of the address.")
	}
	if s.widget, err = h.widget(r); err != nil {
		return scope{}, event.NewProblem(http.StatusBadRequest, "This address belongs to no widget. Check the host and the path of the address.")
	}
	return s, nil
}

// admit refuses feedback of a project that is not the directive's.
func (s scope) admit(project string) error {
	if s.project == "" || project == s.project {
		return nil
	}
	return event.NewProblem(http.StatusUnprocessableEntity, "This address takes feedback of another project.", // Promise 6: a directive takes and changes feedback of its project only.
		event.FieldError{Pointer: "/projectId", Detail: "is another project; leave it out or send " + s.project})
}

// of returns the project that an update belongs to, as far as the request says:
// the directive's, else the one that its body names. said reports whether there
// is one.
func (s scope) of(patch *event.Patch) (project string, said bool, err error) {
	project, said = patch.Project()
	if said {
		err = s.admit(project)
	} else if s.project != "" {
		return s.project, true, nil
	}
	return project, said, err
}

// find returns the feedback that an update is for. Without a project it must be
// the only one with this id.
func (h *Handler) find(ctx context.Context, s scope, id string, patch *event.Patch) (queue.FeedbackID, error) {
	project, said, err := s.of(patch)
	if err != nil || said {
		return queue.FeedbackID{Project: project, ID: id}, err
	}
	projects, err := h.relay.Projects(ctx, id, 2)
	switch {
	case err != nil:
		return queue.FeedbackID{}, err
	case len(projects) == 0:
		return queue.FeedbackID{}, notHeld()
	case len(projects) > 1:
		return queue.FeedbackID{}, event.NewProblem(http.StatusConflict, "Several projects have feedback with this id. Name one as projectId.")
	}
	return queue.FeedbackID{Project: projects[0], ID: id}, nil
}

func notHeld() *event.Problem {
	return event.NewProblem(http.StatusNotFound, "There is no feedback with this id, or it has expired.")
}
