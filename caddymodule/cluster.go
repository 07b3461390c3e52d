package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/intake"
)

// pathCluster is the path of the cluster of embedded NATS servers. Only the admin endpoint
// serves it.
const pathCluster = api.AdminPath + "/cluster"

// ErrNotNow is what RunningNATS.Remove returns if the server can be removed later, or never.
// The text says what to do first.
var ErrNotNow = errors.New("the server is not removed")

// clustered is a queue whose servers are in the relays' processes.
type clustered interface {
	Servers(ctx context.Context) ([]api.ClusterServer, error)
	RemoveServer(ctx context.Context, name string) error
}

// Servers lists the servers of the cluster.
func (q *embeddedQueue) Servers(ctx context.Context) ([]api.ClusterServer, error) {
	return q.server.Servers(ctx)
}

// RemoveServer removes a server that has left for good.
func (q *embeddedQueue) RemoveServer(ctx context.Context, name string) error {
	return q.server.Remove(ctx, name)
}

// serveCluster answers GET /cluster and DELETE /cluster/{name}.
func (e *engine) serveCluster(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, pathCluster), "/")
	allowed := http.MethodGet
	if name != "" {
		allowed = http.MethodDelete
	}
	relay := e.useFor(w, r, allowed)
	if relay == nil {
		return
	}
	defer e.users.Done()
	q, ok := relay.Queue().(clustered)
	if !ok {
		intake.WriteProblem(w, event.NewProblem(http.StatusNotImplemented, "This relay has no NATS server built in: use the means of its servers, such as nats server cluster peer-remove."))
		return
	}
	var err error
	if name != "" {
		err = q.RemoveServer(r.Context(), name)
	}
	var answer api.Cluster
	if err == nil {
		answer.Servers, err = q.Servers(r.Context())
	}
	switch {
	case errors.Is(err, ErrNotNow):
		intake.WriteProblem(w, event.NewProblem(http.StatusConflict, err.Error()))
	case err != nil:
		intake.WriteProblem(w, event.NewProblem(http.StatusServiceUnavailable, err.Error()))
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer) // the client is gone
	}
}

var _ clustered = (*embeddedQueue)(nil)
