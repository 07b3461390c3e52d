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

// Paths that only the admin endpoint serves. The console does not serve them,
// because a backup contains the webhooks' secrets.
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
		// The status 200 is sent already. Only a broken connection can tell the
		// client that the backup is incomplete.
		panic(http.ErrAbortHandler)
	}
}
