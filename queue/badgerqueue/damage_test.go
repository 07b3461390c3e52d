package badgerqueue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/badgercompat"
	"github.com/userhero/relay/queue/badgerqueue/layout"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// files are a store's files at one moment, which is what a killed process
// leaves. Most of a log was never written, so what is used is kept, and the
// length.
type files map[string]file

type file struct {
	used   []byte
	length int
}

func readFiles(t testing.TB, dir string) files {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	fs := make(files)
	for _, e := range entries {
		if e.Name() == "LOCK" {
			continue
		}
		b, length, err := readSparse(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		fs[e.Name()] = file{used: b[:storefile.Used(b)], length: length}
	}
	return fs
}

// write makes a folder of the files.
func (fs files) write(t testing.TB) string {
	t.Helper()
	dir := fastDir(t)
	for name, f := range fs {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, f.used, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, int64(f.length)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// with returns the files with one of them changed.
func (fs files) with(name string, c change) files {
	changed := maps.Clone(fs)
	f := fs[name]
	f.used = bytes.Clone(f.used)
	if c.do == nil {
		delete(changed, name)
		return changed
	}
	c.do(&f)
	f.used = f.used[:storefile.Used(f.used)]
	changed[name] = f
	return changed
}

func (fs files) equal(others files) bool {
	return maps.EqualFunc(fs, others, func(a, b file) bool { return a.length == b.length && bytes.Equal(a.used, b.used) })
}

// the returns the one file whose name has an ending.
func (fs files) the(t testing.TB, ending string) string {
	t.Helper()
	var found []string
	for name := range fs {
		if strings.HasSuffix(name, ending) {
			found = append(found, name)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d files end in %s: %v", len(found), ending, found)
	}
	return found[0]
}

// change is one damage done to a file; one without a do removes it.
type change struct {
	name string
	do   func(f *file)
}

func (f *file) cut(n int)   { f.used, f.length = f.used[:n], n }
func (f *file) clear(n int) { f.used = f.used[:n] }
func (f *file) flip(at, bit int) {
	if at < len(f.used) {
		f.used[at] ^= 1 << bit
	}
}

var (
	removed    = change{name: "removed"}
	flipped    = change{"flipped in its middle", func(f *file) { f.flip(len(f.used)/2, 0) }}
	lastCut    = change{"without its last byte", func(f *file) { f.cut(max(0, len(f.used)-1)) }}
	halfClear  = change{"cleared in its second half", func(f *file) { f.clear(len(f.used) / 2) }}
	allChanges = []change{
		removed, flipped, lastCut, halfClear,
		{"emptied", func(f *file) { f.cut(0) }},
		{"cleared", func(f *file) { f.clear(0) }},
		{"cut behind its last byte", func(f *file) { f.cut(len(f.used)) }},
	}
)

// changes are the damages done to every file; the random ones follow the seed.
func changes(seed uint64, flips, cuts int) []change {
	all := slices.Clone(allChanges)
	random := rand.New(rand.NewPCG(seed, 0))
	for range flips {
		at, bit := random.Float64(), random.IntN(8)
		all = append(all, change{fmt.Sprintf("flipped at %.4f bit %d", at, bit), func(f *file) { f.flip(int(at*float64(len(f.used))), bit) }})
	}
	for range cuts {
		at := random.Float64()
		all = append(all, change{fmt.Sprintf("cut at %.4f", at), func(f *file) { f.cut(int(at * float64(len(f.used)))) }})
	}
	return all
}

// fastDir is a folder in memory, where there is one: what a file looks like does
// not depend on where it is, and these tests open hundreds of stores.
func fastDir(t testing.TB) string {
	t.Helper()
	const shm = "/dev/shm"
	if _, free, err := badgercompat.FileSystemOf(shm); err != nil || free < 1<<30 {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(shm, "badgerqueue") //nolint:usetesting // the point is where it is
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// killedStore are the files of a store whose process was killed, with records
// of every kind in three tables and in a log, and n events in each of the four.
func killedStore(t *testing.T, n int, key []byte) (left files) {
	t.Helper()
	ctx := context.Background()
	dir := fastDir(t)
	for part := range 4 {
		s, err := open(ctx, Options{Path: dir, EncryptionKey: key}, smallMemtables)
		if err != nil {
			t.Fatal(err)
		}
		w, err := onlyWebhook(ctx, s)
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			e := entry(part*n+i, w)
			e.Key = queue.Key{Name: fmt.Sprint("key ", part*n+i)}
			enqueue(t, s, e)
		}
		if err := s.AppendActivity(ctx, queue.Activity{At: time.Now(), Data: []byte("noted")}); err != nil {
			t.Fatal(err)
		}
		settleSome(t, s, w, n/2)
		if part == 3 {
			left = readFiles(t, dir)
		}
		if err := s.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return left
}

// settleSome has every third of n deliveries wait on a rung, and the others
// delivered, and waits until that is on disk.
func settleSome(t *testing.T, s *Store, w queue.WebhookID, n int) {
	t.Helper()
	l, err := s.Lane(w, queue.LaneOptions{MaxInFlight: n})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	before := s.Stats(context.Background()).Webhooks[w]
	for got := 0; got < n; {
		leases, err := l.Next(context.Background(), n-got)
		if err != nil {
			t.Fatal(err)
		}
		for i, lease := range leases {
			if (got+i)%3 == 0 {
				err = lease.Retry(time.Now().Add(time.Hour), queue.Attempt{At: time.Now(), Status: 500, ResponseBody: []byte("no")})
			} else {
				err = lease.Ack(queue.Attempt{At: time.Now(), Status: 200})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		got += len(leases)
	}
	eventually(t, "settlements are on disk", func() bool {
		now := s.Stats(context.Background()).Webhooks[w]
		return int(now.Delivered+now.Retrying-before.Delivered-before.Retrying) == n
	})
}

// records are all live records of an open store.
func records(t testing.TB, s *Store) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := s.db.View(func(txn *badger.Txn) error {
		return scan(txn, nil, nil, func(key, rec []byte) (bool, error) {
			all[string(key)] = string(rec)
			return true, nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// worth leaves fewer changes to files that hold no record, but for the long runs.
func worth(name string, all []change) []change {
	if soak() == 0 && (name == "DISCARD" || strings.HasSuffix(name, ".vlog")) {
		return all[:3]
	}
	return all
}

// reports collects what a store says at the level of a warning or above.
type reports struct{ bytes.Buffer }

func (r *reports) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(r, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// verdict is what came of opening a damaged store.
type verdict string

const (
	whole   verdict = "opened with every record"
	refused verdict = "refused"
	fewer   verdict = "opened with less"
)

// openDamaged opens a store and compares it with what it held.
func openDamaged(t testing.TB, o Options, held map[string]string) (v verdict, said string) {
	t.Helper()
	var log reports
	o.Logger = log.logger()
	s, err := open(context.Background(), o, smallMemtables)
	if err != nil {
		return refused, err.Error()
	}
	defer func() { _ = s.Close(context.Background()) }()
	now := records(t, s)
	for key, rec := range held {
		if now[key] != rec {
			return fewer, fmt.Sprintf("%d records of %d, %q differs; it said %q", len(now), len(held), key, log.String())
		}
	}
	return whole, log.String()
}

// remedies are what a refusal must name one of.
var remedies = []string{"check --salvage", "encryption_key"}

// TestDamageIsNeverSilent damages every file of a store in every way: it opens
// with all it held, or refuses, names the remedy, and leaves everything as it was.
func TestDamageIsNeverSilent(t *testing.T) {
	t.Parallel()
	for name, key := range map[string][]byte{"plain": nil, "encrypted": []byte("0123456789abcdef")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := killedStore(t, 20, key)
			held := records(t, openAt(t, Options{Path: store.write(t), EncryptionKey: key}))
			flips, cuts := 3, 1
			if key != nil {
				flips, cuts = 1, 0
			}
			if n := soak(); n > 0 {
				flips, cuts = 100*n, 30*n
			}
			seen := make(map[verdict]int)
			for name := range store {
				for _, c := range worth(name, changes(1, flips, cuts)) {
					broken := store.with(name, c)
					dir := broken.write(t)
					v, said := openDamaged(t, Options{Path: dir, EncryptionKey: key}, held)
					seen[v]++
					if v == fewer {
						t.Errorf("%s %s: %s: %s", name, c.name, v, said)
					}
					if v == refused && !containsAny(said, remedies) {
						t.Errorf("%s %s: refused without a remedy: %s", name, c.name, said)
					}
					if v == refused && !readFiles(t, dir).equal(broken) {
						t.Errorf("%s %s: refused, and changed", name, c.name)
					}
					if err := os.RemoveAll(dir); err != nil {
						t.Fatal(err)
					}
				}
			}
			t.Logf("%d records, %d damages: %v", len(held), seen[whole]+seen[refused]+seen[fewer], seen)
			if seen[refused] == 0 || seen[whole] == 0 {
				t.Errorf("the damages are not what this test takes them for: %v", seen)
			}
		})
	}
}

func containsAny(s string, parts []string) bool {
	for _, p := range parts {
		if strings.Contains(s, p) {
			return true
		}
	}
	return false
}

// TestDamagedLogIsSeenWithoutTheMark: where the mark is gone too, the finished
// transactions behind a damage tell of it.
func TestDamagedLogIsSeenWithoutTheMark(t *testing.T) {
	t.Parallel()
	store := killedStore(t, 20, nil).with(storefile.HighWaterFile, removed)
	whole := openAt(t, Options{Path: store.write(t)})
	if n := whole.Stats(context.Background()).Events; n != 80 {
		t.Errorf("without the mark alone the store has %d events", n)
	}
	_, err := Open(t.Context(), Options{Path: store.with(store.the(t, ".mem"), flipped).write(t)})
	if !errors.Is(err, storefile.ErrLost) || !strings.Contains(err.Error(), "unreadable from byte") {
		t.Errorf("a damaged log and no mark: %v", err)
	}
}

// TestWithoutThePreflightDamageIsSilent is the negative control: the same kinds
// of damage, with Badger alone.
func TestWithoutThePreflightDamageIsSilent(t *testing.T) {
	t.Parallel()
	store := killedStore(t, 40, nil)
	held := records(t, openAt(t, Options{Path: store.write(t)}))
	for _, damage := range []struct {
		file string
		change
	}{{".mem", flipped}, {".mem", halfClear}, {".mem", removed}, {"MANIFEST", lastCut}} {
		dir := store.with(store.the(t, damage.file), damage.change).write(t)
		s, err := open(context.Background(), Options{Path: dir, trusting: true}, smallMemtables)
		if err != nil {
			t.Errorf("%s %s: Badger refuses by itself: %v", damage.file, damage.name, err)
			continue
		}
		if now := records(t, s); len(now) >= len(held) {
			t.Errorf("%s %s: %d of %d records are left; the damage is not what the test above takes it for", damage.file, damage.name, len(now), len(held))
		}
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

// TestStoreOfADeadProcessOpens: what a killed process leaves is no damage: its
// LOCK, logs of no bytes, a log that is in a table already, a transaction that
// was not finished, a table that no MANIFEST names.
func TestStoreOfADeadProcessOpens(t *testing.T) {
	t.Parallel()
	store := killedStore(t, 40, nil)
	store["LOCK"] = file{used: []byte("4194304\n"), length: 8}
	store["00099.mem"], store["00099.vlog"] = file{}, file{}
	log := store.the(t, "1.mem")
	dir := store.with(log, change{do: func(f *file) { f.used = append(f.used, f.used[20:220]...) }}).write(t)
	var said reports
	s := openAt(t, Options{Path: dir, Logger: said.logger()})
	if n := s.Stats(context.Background()).Events; n != 160 {
		t.Errorf("%d of 160 events are left", n)
	}
	if !strings.Contains(said.String(), "nobody was told of") {
		t.Errorf("the unfinished transaction is not reported: %s", &said)
	}
}

// TestStoreInUseIsNotLookedAt: files that another process writes are not judged.
func TestStoreInUseIsNotLookedAt(t *testing.T) {
	t.Parallel()
	dir := fastDir(t)
	_ = openAt(t, Options{Path: dir})
	_, err := Open(context.Background(), Options{Path: dir})
	if err == nil || !strings.Contains(err.Error(), "another process has it open") {
		t.Errorf("a second opening ends with %v", err)
	}
}

// TestNewerFormatIsRefused: a store that a newer build wrote is left to it.
func TestNewerFormatIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openAt(t, Options{Path: dir})
	if err := s.commit(t.Context(), 1, 1024, func(b *batch) error {
		return b.set(layout.KeyFormat, layout.Format{Version: layout.FormatVersion + 1, Tags: s.tags}.Encode())
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	_, err := Open(context.Background(), Options{Path: dir})
	if err == nil || !strings.Contains(err.Error(), "use a newer build") {
		t.Errorf("opening ends with %v", err)
	}
}

// TestDamagedRecordIsSteppedOverAndSaid: a record whose checksum is wrong is an
// error to who asks for it, and no obstacle to the others.
func TestDamagedRecordIsSteppedOverAndSaid(t *testing.T) {
	t.Parallel()
	s := openAt(t, Options{Path: t.TempDir()})
	w := newWebhook(t, s, "w")
	bad, good := enqueue(t, s, entry(1, w)), enqueue(t, s, entry(2, w))
	if err := s.commit(t.Context(), 1, 1024, func(b *batch) error {
		key := layout.EventKey(bad.ID.Seq())
		rec := eventRecord(key, &bad)
		rec[len(rec)-1] ^= 1
		return b.set(key, rec)
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Event(t.Context(), bad.ID); !errors.Is(err, layout.ErrDamaged) {
		t.Errorf("a damaged event reads as %v", err)
	}
	l, err := s.Lane(w, queue.LaneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	leases, err := l.Next(ctx, 10)
	if err != nil || len(leases) != 1 || leases[0].Event.ID != good.ID {
		t.Errorf("the lane hands out %d, %v", len(leases), err)
	}
}
