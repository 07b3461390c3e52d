package api

import (
	"errors"
	"net/http"

	"github.com/userhero/relay/relay"
)

// eraseFeedback erases one feedback.
func (s *server) eraseFeedback(r *http.Request) (any, error) {
	p := parameters{values: r.URL.Query()}
	compact, dryRun := p.flag("compact"), p.flag("dry_run")
	if err := p.err(); err != nil {
		return nil, err
	}
	id, err := FindFeedback(r.Context(), s.queue, r.PathValue("id"), ProjectOf(r.URL.Query()))
	if err != nil {
		return nil, err
	}
	return s.erased(r, relay.Erasure{Feedback: id, Compact: compact, DryRun: dryRun})
}

// erase erases what a filter selects.
func (s *server) erase(r *http.Request) (any, error) {
	var in Erasure
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	if in.Filter == "" {
		return nil, Unprocessable("/filter", errors.New(`is required, such as data.metadata.userId == "u1"`))
	}
	return s.erased(r, relay.Erasure{Filter: in.Filter, DryRun: in.DryRun, Compact: in.Compact})
}

func (s *server) erased(r *http.Request, what relay.Erasure) (any, error) {
	sum, err := s.relay.Erase(r.Context(), what, UserOf(r))
	if err != nil {
		return nil, err
	}
	return Erased{
		Feedback: sum.Feedbacks, Events: sum.Events, Deliveries: sum.Deliveries, Cancelled: sum.Waiting, Attempts: sum.Attempts,
		NotJudged: sum.NotJudged, LastError: sum.LastError,
	}, nil
}
