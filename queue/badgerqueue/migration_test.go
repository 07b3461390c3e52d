package badgerqueue

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/layout"
)

const migrateEnv = "BADGERQUEUE_MIGRATE_DIR"

func init() { children[migrateEnv] = migrate }

// migrated is the document of a feedback that migrate has changed.
var migrated = []byte(`{"migrated":true}`)

// feedbackOf lists the feedback that a store has events of.
func feedbackOf(ctx context.Context, s *Store) (ids []queue.FeedbackID, err error) {
	page, err := s.Events(ctx, queue.EventQuery{Limit: 100})
	for _, e := range page.Items {
		if !slices.Contains(ids, e.Feedback) {
			ids = append(ids, e.Feedback)
		}
	}
	slices.SortFunc(ids, func(a, b queue.FeedbackID) int { return strings.Compare(a.String(), b.String()) })
	return ids, err
}

// migrate opens the store of a former format and changes one feedback after the other,
// which moves each to the present format, as far as that was not done before. It says so
// after each step.
func migrate(dir string) error {
	ctx := context.Background()
	s, err := Open(ctx, Options{Path: dir, Clock: soonAfter{time.Now()}})
	if err != nil {
		return err
	}
	fmt.Println("open")
	ids, err := feedbackOf(ctx, s)
	if err != nil {
		return err
	}
	for _, id := range ids {
		latest, err := s.Latest(ctx, id)
		if err != nil && !errors.Is(err, queue.ErrNotFound) { // shared of proj_a of format 2 is created anew
			return err
		}
		if !bytes.Equal(latest.Body, migrated) {
			e := entry(0)
			e.Feedback, e.Replaces, e.Body = id, latest.ID, migrated
			if _, err := s.Enqueue(ctx, e); err != nil {
				return err
			}
		}
		fmt.Println("moved", id)
	}
	if err := s.Close(ctx); err != nil {
		return err
	}
	fmt.Println("closed")
	return nil
}

// TestMigrationResumesAfterSIGKILL kills the process after each step of a migration, and
// before the first, from each format that is older than the present one. The next process
// goes on: nothing is lost or done twice, and the store is whole.
func TestMigrationResumesAfterSIGKILL(t *testing.T) {
	t.Parallel()
	for n := layout.FormerVersion; n < layout.FormatVersion; n++ {
		held := feedbackIn(t, golden(n))
		steps := len(held) + 2 // what migrate says
		for after := range steps {
			t.Run(fmt.Sprintf("format %d after step %d", n, after), func(t *testing.T) {
				t.Parallel()
				migratesThoughKilled(t, golden(n), held, after, steps)
			})
		}
	}
}

// feedbackIn is the feedback of a golden store.
func feedbackIn(t *testing.T, path string) []queue.FeedbackID {
	t.Helper()
	held, err := feedbackOf(t.Context(), openAt(t, copied(t, path)))
	if err != nil {
		t.Fatal(err)
	}
	return held
}

func migratesThoughKilled(t *testing.T, path string, held []queue.FeedbackID, after, steps int) {
	t.Helper()
	o := copied(t, path)
	run := func(until int) {
		t.Helper()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), migrateEnv+"="+o.Path)
		cmd.Stderr = os.Stderr
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if until == 0 {
			time.AfterFunc(10*time.Millisecond, func() { _ = cmd.Process.Kill() }) // while it opens
		}
		said := 0
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			if said++; said == until {
				_ = cmd.Process.Kill()
			}
		}
		err = cmd.Wait()
		if until > steps && (err != nil || said != steps) {
			t.Fatalf("it said %d of %d lines: %v", said, steps, err)
		}
	}
	run(after)
	run(after) // the process that goes on is killed too
	run(steps + 1)
	want := documents(t, o, path+".documents")
	s := openAt(t, o)
	isWhole(t, s, int64(len(want)+len(held)), int64(len(held)))
	if got := formatOnDisk(t, s); got != layout.FormatVersion {
		t.Errorf("the store has format %d", got)
	}
	for i, document := range want {
		if got := bodyOf(t, s, uint64(i)+1); !bytes.Equal(got, document) {
			t.Errorf("event %d is %s, want %s", i+1, got, document)
		}
	}
	for _, id := range held {
		if e, err := s.Latest(t.Context(), id); err != nil || !bytes.Equal(e.Body, migrated) {
			t.Errorf("the latest event of %s is %s (%v)", id, e.Body, err)
		}
	}
}
