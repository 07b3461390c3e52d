package caddymodule

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/intake"
	"github.com/userhero/relay/queue/backup"
	"github.com/userhero/relay/queue/badgerqueue"
	"github.com/userhero/relay/relay"
)

// Paths that only the admin endpoint serves. The console does not serve them,
// because a backup contains the webhooks' secrets.
const (
	pathBackup = api.AdminPath + "/backup"
	pathCheck  = api.AdminPath + "/check"
)

// backedUp is a queue that can be backed up while it is open.
type backedUp interface {
	Backup(ctx context.Context, w io.Writer) (backup.Info, error)
	NoteBackup(made time.Time) error
}

// checked is a queue that can be checked while it is open.
type checked interface {
	Check(ctx context.Context) (badgerqueue.CheckReport, error)
}

// noteBackup takes {"made": time}, which the command line sends after it has read a
// backup back, and answers 204.
func noteBackup(w http.ResponseWriter, r *http.Request, store backedUp) {
	var backup struct {
		Made time.Time `json:"made"`
	}
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<10)).Decode(&backup)
	if err != nil || backup.Made.IsZero() || backup.Made.After(time.Now().Add(time.Minute)) {
		intake.WriteProblem(w, event.NewProblem(http.StatusBadRequest, `The body is {"made":"…"}: when the backup was made, as RFC 3339 writes it, and not in the future.`))
		return
	}
	if err := store.NoteBackup(backup.Made); err != nil {
		intake.WriteProblem(w, event.NewProblem(http.StatusServiceUnavailable, err.Error()))
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// useFor returns the relay if a request has an allowed method. Otherwise, and if the relay
// does not run, it answers the request and returns nil. The caller must call e.users.Done
// after it has used the relay.
func (e *engine) useFor(w http.ResponseWriter, r *http.Request, allowed ...string) *relay.Relay {
	if !slices.Contains(allowed, r.Method) {
		methods := strings.Join(allowed, ", ")
		w.Header().Set("Allow", methods)
		intake.WriteProblem(w, event.NewProblem(http.StatusMethodNotAllowed, "This path takes "+methods+"."))
		return nil
	}
	used, err := e.use()
	if err != nil {
		intake.WriteProblem(w, intake.Unavailable(err))
		return nil
	}
	return used
}

// serveStore answers GET /backup, POST /backup and GET /check.
func (e *engine) serveStore(w http.ResponseWriter, r *http.Request) {
	allowed := []string{http.MethodGet}
	if r.URL.Path == pathBackup {
		allowed = append(allowed, http.MethodPost)
	}
	relay := e.useFor(w, r, allowed...)
	if relay == nil {
		return
	}
	defer e.users.Done()
	if r.URL.Path == pathCheck {
		store, ok := relay.Queue().(checked)
		if !ok {
			intake.WriteProblem(w, event.NewProblem(http.StatusNotImplemented, "This queue has no files of its own to check: use the means of its servers."))
			return
		}
		report, err := store.Check(r.Context())
		if err != nil {
			intake.WriteProblem(w, event.NewProblem(http.StatusServiceUnavailable, err.Error()))
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(report) // the client is gone
		return
	}
	store, ok := relay.Queue().(backedUp)
	if !ok {
		intake.WriteProblem(w, event.NewProblem(http.StatusNotImplemented, "This queue cannot be backed up here: use the means of its servers."))
		return
	}
	if r.Method == http.MethodPost {
		noteBackup(w, r, store)
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
