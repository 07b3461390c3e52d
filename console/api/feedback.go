package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

// mostProjects bounds the projects that an error names.
const mostProjects = 10

// Store is the part of a queue that finds feedback.
type Store interface {
	Event(ctx context.Context, id queue.EventID) (queue.Event, error)
	Latest(ctx context.Context, id queue.FeedbackID) (queue.Event, error)
	Projects(ctx context.Context, id string, limit int) ([]string, error)
}

// FindFeedback returns the feedback with an id: that of the project, or of the only
// project that has it if project is nil. The error is a *event.Problem if there is none
// or several projects have it.
func FindFeedback(ctx context.Context, s Store, id string, project *string) (queue.FeedbackID, error) {
	if project != nil {
		return queue.FeedbackID{Project: *project, ID: id}, nil
	}
	switch projects, err := s.Projects(ctx, id, mostProjects); {
	case err != nil:
		return queue.FeedbackID{}, fmt.Errorf("finding feedback: %w", err)
	case len(projects) == 0:
		return queue.FeedbackID{}, event.NewProblem(http.StatusNotFound, "There is no feedback with this id, or it has expired.")
	case len(projects) > 1:
		slices.Sort(projects)
		return queue.FeedbackID{}, event.NewProblem(http.StatusConflict,
			"Several projects have feedback with this id. Choose one with ?project=: "+strings.Join(projects, ", ")+".")
	default:
		return queue.FeedbackID{Project: projects[0], ID: id}, nil
	}
}

// EventsOf returns the events of a feedback, oldest first, without those that have
// expired. The last one is the feedback as it is now. If limit is not 0, EventsOf
// returns only so many of the newest.
func EventsOf(ctx context.Context, s Store, id queue.FeedbackID, limit int) ([]queue.Event, error) {
	e, err := s.Latest(ctx, id)
	if err != nil {
		return nil, err
	}
	events := []queue.Event{e}
	for !e.Replaces.IsZero() && (limit == 0 || len(events) < limit) {
		e, err = s.Event(ctx, e.Replaces)
		if errors.Is(err, queue.ErrNotFound) {
			break // it has expired, and so have those before
		}
		if err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	slices.Reverse(events)
	return events, nil
}

// ProjectOf returns the parameter that chooses a project; nil if it is absent. An empty
// one chooses feedback without a project. The parameters are those of a query or of a form.
func ProjectOf(parameters url.Values) *string {
	if !parameters.Has("project") {
		return nil
	}
	project := parameters.Get("project")
	return &project
}

func (s *server) feedback(r *http.Request) (any, error) {
	id, err := FindFeedback(r.Context(), s.queue, r.PathValue("id"), ProjectOf(r.URL.Query()))
	if err != nil {
		return nil, err
	}
	events, err := EventsOf(r.Context(), s.queue, id, 0)
	if err != nil {
		return nil, err
	}
	latest := events[len(events)-1]
	data, err := dataOf(latest)
	if err != nil {
		return nil, err
	}
	v := Feedback{ID: id.ID, ProjectID: id.Project, Data: data, Events: make([]Event, len(events))}
	for i, e := range events {
		v.Events[i] = viewEvent(e)
	}
	return v, nil
}

// Facts are what people sort feedback by. An empty one is not asked for.
type Facts struct {
	Category, Status string
	Rating           int // 1 to 5
	RatingTo         int // with Rating, the highest of a range; 0 is Rating itself
}

// Expression returns the CEL expression of documents with these facts; empty if all have
// them.
func (f Facts) Expression() string {
	var all []string
	for _, text := range []struct{ member, value string }{{"category", f.Category}, {"status", f.Status}} {
		if text.value != "" {
			all = append(all, "data."+text.member+" == "+Quoted(text.value))
		}
	}
	if f.Rating != 0 {
		all = append(all, fmt.Sprintf("data.rating >= %d && data.rating <= %d", f.Rating, max(f.Rating, f.RatingTo)))
	}
	return strings.Join(all, " && ")
}

// Quoted returns a text as CEL writes it.
func Quoted(text string) string { return strconv.Quote(strings.ToValidUTF8(text, "")) }

// Match returns a function that reports whether an event's document contains a text
// (see NewSearch) and has these facts. It returns nil if every document matches. The
// function is not safe for concurrent use.
func (f Facts) Match(text string) func(body []byte) bool {
	search := NewSearch(text)
	if f == (Facts{}) {
		return search
	}
	var pieces [][]byte // a document with these facts has them all
	for name, value := range map[string]string{"category": f.Category, "status": f.Status} {
		if value != "" && !strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) {
			pieces = append(pieces, []byte(`"`+name+`":"`+value+`"`))
		}
	}
	return func(body []byte) bool {
		for _, piece := range pieces {
			if !bytes.Contains(body, piece) {
				return false
			}
		}
		var document struct {
			Data struct {
				Category, Status string
				Rating           int
			} `json:"data"`
		}
		if f.Rating != 0 && !bytes.Contains(body, []byte(`"rating":`)) || json.Unmarshal(body, &document) != nil {
			return false
		}
		d := document.Data
		return (f.Category == "" || d.Category == f.Category) && (f.Status == "" || d.Status == f.Status) &&
			(f.Rating == 0 || d.Rating >= f.Rating && d.Rating <= max(f.Rating, f.RatingTo)) && (search == nil || search(body))
	}
}
