package badgerqueue

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// The writer is the test binary as a process whose disk misbehaves. It writes
// events one by one and prints each that is acknowledged and each that is refused,
// goes on for a while after a refusal, and ends as if it were killed.
const (
	writerEnv = "BADGERQUEUE_WRITER_DIR"
	eventsEnv = "BADGERQUEUE_WRITER_EVENTS" // how many
	sizeEnv   = "BADGERQUEUE_WRITER_SIZE"   // of a body, in bytes
	careEnv   = "BADGERQUEUE_WRITER_CARE"   // "trusting" and "unsynced" take a guard away
)

// refusals are how many in a row end the writer.
const refusals = 20

func init() { children[writerEnv] = write }

func write(dir string) error {
	ctx := context.Background()
	care := os.Getenv(careEnv)
	s, err := Open(ctx, Options{Path: dir, trusting: care == "trusting", unsynced: care == "unsynced"})
	if err != nil {
		fmt.Println("refused to open:", err)
		os.Exit(0)
	}
	w, err := onlyWebhook(ctx, s)
	if err != nil {
		fmt.Println("refused a webhook:", err)
		os.Exit(0)
	}
	events, _ := strconv.Atoi(os.Getenv(eventsEnv))
	size, _ := strconv.Atoi(os.Getenv(sizeEnv))
	refused := 0
	for i := 0; refused < refusals && (i < events || refused > 0 && i < events+refusals); i++ {
		e := entry(i, w)
		e.Body = noise(os.Getpid()<<20|i, size)
		r, err := s.Enqueue(ctx, e)
		if err != nil {
			refused++
			fmt.Printf("refused %v; health %v\n", err, s.Health())
			continue
		}
		fmt.Printf("ack %s %08x\n", r.Event.ID, crc32.ChecksumIEEE(e.Body))
	}
	fmt.Println("end")
	os.Exit(0) // without closing
	return nil
}

// written is what a writer said.
type written struct {
	acked   map[string]string // checksum of the body by id
	refused []string
	after   int // acknowledgements after the first refusal
}

func readWriter(t *testing.T, lines *bufio.Scanner, each func(n int)) (w written) {
	t.Helper()
	w.acked = make(map[string]string)
	for lines.Scan() {
		line := lines.Text()
		var id, sum string
		switch n, _ := fmt.Sscanf(line, "ack %s %s", &id, &sum); {
		case n == 2:
			w.acked[id] = sum
			if len(w.refused) > 0 {
				w.after++
			}
			if each != nil {
				each(len(w.acked))
			}
		case strings.HasPrefix(line, "refused"):
			w.refused = append(w.refused, line)
		}
	}
	return w
}

func writerCommand(dir string, events, size int, care string, wrap ...string) *exec.Cmd {
	args := append(wrap, os.Args[0])
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), writerEnv+"="+dir, careEnv+"="+care,
		eventsEnv+"="+strconv.Itoa(events), sizeEnv+"="+strconv.Itoa(size))
	return cmd
}

// lostOf returns what was acknowledged and is not in an open store with its bytes.
func lostOf(t *testing.T, s *Store, acked map[string]string) (lost []string) {
	t.Helper()
	for id, sum := range acked {
		eid, err := queue.ParseEventID(id)
		if err != nil {
			t.Fatal(err)
		}
		e, err := s.Event(t.Context(), eid)
		if err != nil || fmt.Sprintf("%08x", crc32.ChecksumIEEE(e.Body)) != sum {
			lost = append(lost, fmt.Sprint(id, " ", err))
		}
	}
	return lost
}

// lookStrace finds strace, which a test needs to do something.
func lookStrace(t *testing.T, something string) string {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("needs strace, " + something)
	}
	return strace
}

// fault is an error that a call to the system returns at its nth time in a thread.
type fault struct {
	call, errno string
	nth         int
	size        int // of the bodies: large ones fill memtables, which become tables meanwhile
}

// injected runs a writer with a fault, and returns what it said and how many
// acknowledgements it printed after the first call that failed; -1 where none did.
func injected(t *testing.T, dir string, f fault, care string) (w written, after int) {
	t.Helper()
	strace := lookStrace(t, "to have the system's calls fail")
	log := filepath.Join(t.TempDir(), "calls")
	events := 120
	if f.size > 10_000 {
		events = 500
	}
	cmd := writerCommand(dir, events, f.size, care, strace, "-f", "-qq", "--seccomp-bpf", "-o", log,
		"-e", "trace=write,"+f.call, "-e", fmt.Sprintf("inject=%s:error=%s:when=%d", f.call, f.errno, f.nth))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w = readWriter(t, bufio.NewScanner(out), nil)
	if err := cmd.Wait(); err != nil {
		if strings.Contains(errs.String(), "ptrace") {
			t.Skipf("this machine does not let strace trace: %s", &errs)
		}
		t.Fatalf("%+v: the writer ended with %v: %s", f, err, &errs)
	}
	calls, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	_, behind, failed := strings.Cut(string(calls), "(INJECTED)")
	if !failed {
		return w, -1
	}
	return w, strings.Count(behind, `"ack `)
}

// TestFailedWritesAreNeverAcknowledged has one call to the system fail at its nth
// time: nothing is acknowledged after it, the store says why it takes no more, and
// all that was acknowledged is there when it is opened again.
func TestFailedWritesAreNeverAcknowledged(t *testing.T) {
	t.Parallel()
	var faults []fault
	add := func(size int, nths []int, calls ...string) {
		for _, call := range calls {
			for _, nth := range nths {
				faults = append(faults, fault{call: call, errno: "EIO", nth: nth, size: size})
			}
		}
	}
	few, more := []int{1, 5, 17}, []int{2}
	if soak() > 0 {
		few, more = nil, nil
		for n := 1; n <= 50; n++ {
			few, more = append(few, n), append(more, n)
		}
	}
	add(500, few, "fdatasync", "fsync", "pwrite64")
	add(60_000, more, "fdatasync", "msync", "fsync", "pwrite64", "ftruncate")
	hit := 0
	for _, f := range faults {
		dir := t.TempDir()
		w, after := injected(t, dir, f, "")
		if after >= 0 {
			hit++
			// With small bodies the calls are those of the commits. Tables are made
			// beside them: a commit under way may be acknowledged, for its own calls
			// did not fail.
			if allowed := f.size / 50_000 * 2; after > allowed {
				t.Errorf("%+v: %d acknowledgements after the call that failed", f, after)
			}
		}
		if w.after > 0 {
			t.Errorf("%+v: %d acknowledgements after a refusal", f, w.after)
		}
		if n := len(w.refused); n > 0 && !strings.HasPrefix(w.refused[0], "refused to open") && !strings.HasPrefix(w.refused[0], "refused a webhook") &&
			(n < refusals || !strings.Contains(w.refused[n-1], "restart to read what the disk holds")) {
			t.Errorf("%+v: the refusals are %q", f, w.refused)
		}
		reopened(t, f, dir, w)
	}
	t.Logf("%d of %d faults struck", hit, len(faults))
	if hit < len(faults)/2 {
		t.Errorf("only %d of %d faults struck", hit, len(faults))
	}
}

// reopened checks that what was acknowledged is there: at once, or, where Badger
// left files that do not agree, after the salvage that the refusal names.
func reopened(t *testing.T, f fault, dir string, w written) {
	t.Helper()
	s, err := Open(t.Context(), Options{Path: dir})
	if damage := (*storefile.DamageError)(nil); errors.As(err, &damage) {
		t.Logf("%+v: salvaged, because %v", f, damage.Findings)
		saved := filepath.Join(t.TempDir(), "saved")
		if _, err := Salvage(t.Context(), SalvageOptions{From: dir, To: saved}); err != nil {
			t.Errorf("%+v: %v", f, err)
			return
		}
		s, err = Open(t.Context(), Options{Path: saved})
	}
	if err != nil {
		t.Errorf("%+v: %v", f, err)
		return
	}
	if lost := lostOf(t, s, w.acked); len(lost) > 0 {
		t.Errorf("%+v: of %d acknowledged %d are lost: %v", f, len(w.acked), len(lost), lost[0])
	}
	wantNoFindings(t, s)
	if err := s.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestWithoutTheLatchFailedWritesAreForgotten is the negative control: a store that
// goes on after a failed sync acknowledges what may not be on the disk.
func TestWithoutTheLatchFailedWritesAreForgotten(t *testing.T) {
	t.Parallel()
	w, after := injected(t, t.TempDir(), fault{call: "fdatasync", errno: "EIO", nth: 5, size: 500}, "trusting")
	if after <= 0 {
		t.Errorf("%d acknowledgements after the call that failed, %d refusals: the test above sees nothing", after, len(w.refused))
	}
}

// TestSlowDiskLosesNothing: a disk that takes a fifth of a second for each sync
// makes everything slow and nothing else.
func TestSlowDiskLosesNothing(t *testing.T) {
	t.Parallel()
	strace := lookStrace(t, "to slow the system's calls down")
	dir := t.TempDir()
	cmd := writerCommand(dir, 15, 500, "", strace, "-f", "-qq", "--seccomp-bpf", "-o", os.DevNull,
		"-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:delay_exit=200000")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w := readWriter(t, bufio.NewScanner(out), nil)
	if err := cmd.Wait(); err != nil || len(w.acked) != 15 || len(w.refused) > 0 {
		t.Fatalf("%d acknowledged, %q refused, %v", len(w.acked), w.refused, err)
	}
	if took := time.Since(begun); took < 15*200*time.Millisecond {
		t.Errorf("it took %v: the disk was not slow", took)
	}
	reopened(t, fault{}, dir, w)
}

// TestWhatAKilledProcessWroteIsSyncedBeforeItIsTold: logs that a process left are
// on the disk before the next one answers.
func TestWhatAKilledProcessWroteIsSyncedBeforeItIsTold(t *testing.T) {
	t.Parallel()
	strace := lookStrace(t, "to see the system's calls")
	dir := t.TempDir()
	if out, err := writerCommand(dir, 3, 500, "").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err != nil || len(left) == 0 {
		t.Fatalf("the first writer left no log: %v", err)
	}
	trace := filepath.Join(t.TempDir(), "calls")
	out, err := writerCommand(dir, 3, 500, "", strace, "-f", "-y", "-qq", "--seccomp-bpf", "-o", trace, "-e", "trace=write,fsync").CombinedOutput()
	if strings.Contains(string(out), "ptrace") {
		t.Skipf("this machine does not let strace trace: %s", out)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	calls, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	before, _, told := strings.Cut(string(calls), `"ack `)
	if !told {
		t.Fatalf("the second writer was told of nothing: %s", out)
	}
	for _, log := range left {
		if !strings.Contains(before, "<"+log+">) = 0") {
			t.Errorf("%s was not synced before the first answer", log)
		}
	}
}

// The call that takes the power from an ext4 file system: nothing that is not on
// the disk gets there any more (linux/fs/ext4/ext4.h).
const (
	ext4Shutdown = 0x8004587d
	noLogFlush   = 2
)

// powerLoss writes until n events are acknowledged, takes the power away, mounts
// what the disk holds, and returns the store's folder and what the writer said. The disk is
// made with options of mkfs.ext4.
func powerLoss(t *testing.T, n int, care string, options ...string) (dir string, w written) {
	t.Helper()
	d := smallDisk(t, 160, options...)
	dir = filepath.Join(d.mount, "store")
	cmd := writerCommand(dir, n+200, 700, care)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(d.mount)
	if err != nil {
		t.Fatal(err)
	}
	w = readWriter(t, bufio.NewScanner(out), func(acked int) {
		if acked != n {
			return
		}
		if err := unix.IoctlSetPointerInt(int(root.Fd()), ext4Shutdown, noLogFlush); err != nil {
			t.Errorf("taking the power: %v", err)
		}
	})
	_ = cmd.Wait() // it may have died of a bus error
	if err := root.Close(); err != nil {
		t.Fatal(err)
	}
	d.remountAsLeft(t)
	return dir, w
}

// TestAcknowledgedEventsSurvivePowerLoss takes the power from the disk after so many
// acknowledgements: they are all there afterwards. With a journal and without one the log is
// written ahead in different ways.
func TestAcknowledgedEventsSurvivePowerLoss(t *testing.T) {
	t.Parallel()
	after := []int{1, 60, 700}
	if soak() > 0 {
		after = nil
		for n := 1; n <= 1500; n += 1 + n/8 {
			after = append(after, n)
		}
	}
	for name, options := range map[string][]string{"with a journal": nil, "without a journal": {"-O", "^has_journal"}} {
		for _, n := range after {
			t.Run(fmt.Sprintf("%s, %d", name, n), func(t *testing.T) {
				dir, w := powerLoss(t, n, "", options...)
				if len(w.acked) < n {
					t.Fatalf("%d acknowledged: %q", len(w.acked), w.refused)
				}
				reopened(t, fault{}, dir, w)
				t.Logf("%d acknowledged before the power went and %d after", n, len(w.acked)-n)
			})
		}
	}
}

// TestWithoutSyncPowerLossLosesEvents is the negative control.
func TestWithoutSyncPowerLossLosesEvents(t *testing.T) {
	t.Parallel()
	dir, w := powerLoss(t, 300, "unsynced")
	s, err := Open(t.Context(), Options{Path: dir, trusting: true})
	if err != nil {
		return // as good as lost
	}
	defer func() { _ = s.Close(context.Background()) }()
	if lost := lostOf(t, s, w.acked); len(lost) == 0 {
		t.Error("nothing is lost: the power loss is none")
	}
}

// TestReadOnlyDiskIsRefused: a store on a file system that takes no writes is not
// opened, and the process lives.
func TestReadOnlyDiskIsRefused(t *testing.T) {
	t.Parallel()
	d := smallDisk(t, 160)
	dir := filepath.Join(d.mount, "store")
	s, err := Open(t.Context(), Options{Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	enqueue(t, s, entry(1))
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.remount(t, "-o", "ro")
	for _, path := range []string{dir, filepath.Join(d.mount, "another")} {
		if _, err := Open(t.Context(), Options{Path: path}); !errors.Is(err, unix.EROFS) && !strings.Contains(fmt.Sprint(err), "read-only") {
			t.Errorf("opening %s ends with %v", path, err)
		}
	}
}
