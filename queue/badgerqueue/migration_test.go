package badgerqueue

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/layout"
)

const migrateEnv = "BADGERQUEUE_MIGRATE_DIR"

func init() { children[migrateEnv] = migrate }

// migrated is the document of a feedback that migrate has changed.
var migrated = []byte(`{"migrated":true}`)

// migrate opens the store of the former format and changes one feedback after the
// other, which moves each to the present format, as far as that was not done before. It
// says so after each step.
func migrate(dir string) error {
	ctx := context.Background()
	s, err := Open(ctx, Options{Path: dir, Clock: soonAfter{time.Now()}})
	if err != nil {
		return err
	}
	fmt.Println("open")
	for _, id := range []queue.FeedbackID{onlyA, sharedA, sharedB, plain} {
		latest, err := s.Latest(ctx, id)
		if err != nil && !errors.Is(err, queue.ErrNotFound) { // shared of proj_a is created anew
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
// before the first. The next process goes on: nothing is lost or done twice, and the
// store is whole.
func TestMigrationResumesAfterSIGKILL(t *testing.T) {
	t.Parallel()
	const steps = 6 // what migrate says
	for after := range steps {
		t.Run(fmt.Sprint("after step ", after), func(t *testing.T) {
			t.Parallel()
			o := formerStore(t)
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
			s := openAt(t, o)
			isWhole(t, s, 12, 5)
			if got := formatOnDisk(t, s); got != layout.FormatVersion {
				t.Errorf("the store has format %d", got)
			}
			for _, id := range []queue.FeedbackID{onlyA, sharedA, sharedB, plain} {
				if e, err := s.Latest(t.Context(), id); err != nil || !bytes.Equal(e.Body, migrated) {
					t.Errorf("the latest event of %s is %s (%v)", id, e.Body, err)
				}
			}
		})
	}
}
