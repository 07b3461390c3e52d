package caddymodule

import (
	"context"
	"encoding/json"
	"io"
	"net/http"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/intake"
	"github.com/userhero/relay/queue/badgerqueue"
)

// What is on the admin endpoint alone, and on no console: a backup has the
// webhooks' secrets in it.
const (
	pathBackup = api.AdminPath + "/backup"
	pathCheck  = api.AdminPath + "/check"
)

// inspectable is a queue that can be backed up and checked while it is open.
type inspectable interface {
	Backup(ctx context.Context, w io.Writer) (badgerqueue.BackupInfo, error)
	Check(ctx context.Context) (badgerqueue.CheckReport, error)
}

// serveStore answers GET /backup and GET /check.
func (e *engine) serveStore(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		intake.WriteProblem(w, event.NewProblem(http.StatusMethodNotAllowed, "This path takes GET."))
		return
	}
	relay, err := e.use()
	if err != nil {
		intake.WriteProblem(w, intake.Unavailable(err))
		return
	}
	defer e.users.Done()
	store, ok := relay.Queue().(inspectable)
	if !ok {
		intake.WriteProblem(w, event.NewProblem(http.StatusNotImplemented, "This queue cannot be backed up or checked here: use the means of its own server."))
		return
	}
	if r.URL.Path == pathCheck {
		report, err := store.Check(r.Context())
		if err != nil {
			intake.WriteProblem(w, event.NewProblem(http.StatusServiceUnavailable, err.Error()))
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(report) // the client is gone
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if _, err := store.Backup(r.Context(), w); err != nil {
		e.options.Logger.Error("backing up the store", "error", err)
		// The answer has begun. To cut it off is what tells the client.
		panic(http.ErrAbortHandler)
	}
}
