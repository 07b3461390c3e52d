package badgerqueue

import (
	"bytes"
	"context"
	"crypto/sha256"
	flags "flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/layout"
)

var writeGolden = flags.Bool("golden", false, "write testdata/format* of the present format, and the documents of every golden store, where they are missing")

// golden is a store of some format that testdata keeps for ever. The file
// testdata/format<n>.documents holds its documents, one a line, in order.
func golden(format int) string { return fmt.Sprintf("testdata/format%d", format) }

// TestGoldenStores: every format that a build has written, from the oldest that is
// known to the present one, is opened, delivered from byte for byte, and found whole
// before and after. A new format needs a store of its own in testdata.
func TestGoldenStores(t *testing.T) {
	t.Parallel()
	for n := layout.FormerVersion; n <= layout.FormatVersion; n++ {
		t.Run(fmt.Sprint("format ", n), func(t *testing.T) {
			t.Parallel()
			if _, err := os.Stat(golden(n)); err != nil {
				if !*writeGolden || n != layout.FormatVersion {
					t.Fatalf("%v: the build that introduces a format adds a store of it, with go test ./queue/badgerqueue -run TestGoldenStores -golden", err)
				}
				writeGoldenStore(t, golden(n))
			}
			o := copied(t, golden(n))
			want := documents(t, o, golden(n)+".documents")
			if n >= 5 { // from here on with a log
				readsGoldenLog(t, o)
			}
			deliversGolden(t, o, want)
		})
	}
}

// documents reads the documents that the store was made with.
func documents(t *testing.T, o Options, path string) [][]byte {
	t.Helper()
	if _, err := os.Stat(path); err != nil && *writeGolden {
		s, err := Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		for seq := uint64(1); int64(seq) <= s.Stats(context.Background()).Events; seq++ {
			text.Write(bodyOf(t, s, seq))
			text.WriteByte('\n')
		}
		if err := s.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
}

// readsGoldenLog checks the attempts of the first webhook.
func readsGoldenLog(t *testing.T, o Options) {
	t.Helper()
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	page, err := s.Deliveries(t.Context(), queue.DeliveryQuery{Webhook: 1, Limit: 100})
	if err != nil || len(page.Items) == 0 {
		t.Fatalf("%d deliveries, %v", len(page.Items), err)
	}
	for _, d := range page.Items {
		got, err := s.Attempts(t.Context(), d.ID)
		if want := usual(d.ID.String()); err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], want) {
			t.Errorf("%v: %+v, want %+v", err, got, want)
		}
	}
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func bodyOf(t *testing.T, s *Store, seq uint64) []byte {
	t.Helper()
	page, err := s.Events(t.Context(), queue.EventQuery{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range page.Items {
		if e.ID.Seq() == seq {
			return e.Body
		}
	}
	t.Fatalf("there is no event with number %d", seq)
	return nil
}

func deliversGolden(t *testing.T, o Options, want [][]byte) {
	t.Helper()
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	whole := func(when string) {
		t.Helper()
		if r, err := s.Check(t.Context()); err != nil || r.Found != 0 || r.Events != int64(len(want)) {
			t.Errorf("%s the check finds %d events, want %d; %v (%v)", when, r.Events, len(want), r.Findings, err)
		}
	}
	whole("at first")
	for i, document := range want {
		if got := bodyOf(t, s, uint64(i)+1); !bytes.Equal(got, document) {
			t.Errorf("event %d is %s, want %s", i+1, got, document)
		}
	}
	delivered := 0
	for id, w := range s.Stats(context.Background()).Webhooks {
		waiting := w.Pending + w.Retrying
		lane, err := s.Lane(id, queue.LaneOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for range waiting {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			leases, err := lane.Next(ctx, 1)
			cancel()
			if err != nil {
				t.Fatalf("webhook %d: %v", id, err)
			}
			if document := want[leases[0].Event.ID.Seq()-1]; !bytes.Equal(leases[0].Event.Body, document) {
				t.Errorf("webhook %d gets %s, want %s", id, leases[0].Event.Body, document)
			}
			if err := leases[0].Ack(queue.Attempt{Status: 204}); err != nil {
				t.Fatal(err)
			}
			delivered++
		}
		eventually(t, "everything is delivered", func() bool {
			c := s.Stats(context.Background()).Webhooks[id].Counts
			return c.Pending+c.Retrying == 0 && c.Delivered == w.Delivered+waiting
		})
	}
	if delivered == 0 {
		t.Error("nothing waited in it")
	}
	whole("after the deliveries")
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, o)
	whole("opened again")
	if got := formatOnDisk(t, s); got != layout.FormatVersion {
		t.Errorf("it has format %d after a commit, want %d", got, layout.FormatVersion)
	}
}

// writeGoldenStore writes a store of the present format: webhook 1 has got
// everything, 2 waits on a rung, 3 has never been attempted, 4 has given up.
func writeGoldenStore(t *testing.T, path string) {
	t.Helper()
	s, err := Open(t.Context(), Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]queue.WebhookID, 4)
	for i := range ids {
		ids[i] = newWebhook(t, s, fmt.Sprint("golden_", i+1))
	}
	var first queue.Event
	messages := [8]string{ // of every way to pack them
		"short", "Größe, 特殊", strings.Repeat("The export stays grey. ", 40), "Экспорт не работает", "エクスポートボタンが動作しません。", strings.Repeat("\U0001F41E", 200),
		"It would be great if the table could be sorted by date, and if it remembered the order.", "It is solved, thank you.",
	}
	for i := range 8 {
		e := queue.Entry{
			Type: "feedback.created", Feedback: queue.FeedbackID{Project: "proj_" + string("ab"[i%2]), ID: fmt.Sprint("fb_golden_", i)},
			Created: time.Now(), Webhooks: ids, Key: queue.Key{Name: fmt.Sprint("key_", i), Hash: [32]byte{byte(i)}}, Origin: [32]byte{1, byte(i)},
			Answer: []byte(`{"status":"new"}`),
		}
		if i == 7 { // the first feedback has an update
			e.Type, e.Feedback, e.Replaces, e.Origin = "feedback.updated", first.Feedback, first.ID, [32]byte{}
		}
		e.Body = fmt.Appendf(nil, `{"event":%q,"timestamp":"2026-11-28T16:00:00Z","data":{"id":%q,"projectId":%q,"message":%q,"status":"new"}}`,
			e.Type, e.Feedback.ID, e.Feedback.Project, messages[i])
		if stored := enqueue(t, s, e); i == 0 {
			first = stored
		}
	}
	for w, settle := range map[int]func(*queue.Lease) error{
		0: func(l *queue.Lease) error { return l.Ack(usual(l.Delivery.ID.String())) },
		1: func(l *queue.Lease) error {
			return l.Retry(time.Now().Add(time.Hour), queue.Attempt{Status: 503, ErrorClass: "http_503"})
		},
		3: func(l *queue.Lease) error { return l.Dead(queue.Attempt{Status: 500, ErrorClass: "http_500"}) },
	} {
		lane, err := s.Lane(ids[w], queue.LaneOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for range 8 {
			leases, err := lane.Next(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			if err := settle(leases[0]); err != nil {
				t.Fatal(err)
			}
		}
	}
	gone := entry(0)
	gone.Feedback = queue.FeedbackID{ID: "fb_erased"}
	enqueue(t, s, gone)
	if _, err := s.Erase(t.Context(), []queue.FeedbackID{gone.Feedback}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"LOCK", "DISCARD"} { // of a process, and of nothing
		_ = os.Remove(filepath.Join(path, name))
	}
}

// contents are the hashes of a store's files. Badger begins a value log whenever it
// opens, which has a header and no value: those are left out.
func contents(t *testing.T, path string) string {
	t.Helper()
	var all strings.Builder
	if err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(name)
		if filepath.Ext(name) == ".vlog" && len(content) == valueLogHeader {
			return err
		}
		fmt.Fprintf(&all, "%s %d %x\n", filepath.Base(name), len(content), sha256.Sum256(content))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all.String()
}

const valueLogHeader = 20

// TestDowngradeChangesNothing: a build that does not know the format says so and
// leaves every file that holds anything as it was.
func TestDowngradeChangesNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store")
	s, err := Open(t.Context(), Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	enqueue(t, s, entry(1, newWebhook(t, s, "w")))
	if err := s.commit(t.Context(), 1, 1024, func(b *batch) error {
		return b.set(layout.KeyFormat, layout.Format{Version: layout.FormatVersion + 1, Tags: s.tags}.Encode())
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	before := contents(t, path)
	for range 2 {
		if _, err := Open(t.Context(), Options{Path: path}); err == nil || !strings.Contains(err.Error(), "use a newer build") {
			t.Fatalf("opening ends with %v", err)
		}
		if after := contents(t, path); after != before {
			t.Fatalf("before:\n%s\nafter:\n%s", before, after)
		}
	}
}
