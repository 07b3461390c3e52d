package badgerqueue

import (
	"context"
	"testing"

	"github.com/userhero/relay/queue"
)

// TestCommitsWaitForOneLog: that Badger still has the option where it was, that
// only the value log's is off, and that nothing gets into that log.
func TestCommitsWaitForOneLog(t *testing.T) {
	t.Parallel()
	s := openAt(t, Options{Path: t.TempDir()})
	if o, err := valueLogOptions(s.db); err != nil || o.SyncWrites {
		t.Errorf("each commit waits for the value log: %v", err)
	}
	if !s.db.Opts().SyncWrites {
		t.Error("no commit waits for the memtable's log")
	}
	e := entry(1)
	e.Body = make([]byte, maxValue)
	if _, err := s.Enqueue(context.Background(), e); err == nil {
		t.Error("a value was written to the log that is not synced")
	}
	if _, err := s.Enqueue(context.Background(), entry(2)); err != nil {
		t.Errorf("the next one was refused: %v", err)
	}
	if page, err := s.Events(context.Background(), queue.EventQuery{Limit: 10}); err != nil || len(page.Items) != 1 {
		t.Errorf("%d events, %v; want 1", len(page.Items), err)
	}
}
