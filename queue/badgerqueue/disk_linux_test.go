package badgerqueue

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
)

// diskEnv makes the test binary a process that fills a small disk; it names the
// store's folder. With guardEnv=off the guard is taken away.
const (
	diskEnv  = "BADGERQUEUE_DISK_DIR"
	guardEnv = "BADGERQUEUE_DISK_GUARD"
)

func init() { children[diskEnv] = diskProcess }

// testDisk is a small file system in a file.
type testDisk struct{ image, mount string }

// smallDisk mounts an ext4 file system of so many megabytes, which needs root and a
// loop device. It is made with options of mkfs.ext4.
func smallDisk(t *testing.T, megabytes int64, options ...string) testDisk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	d := testDisk{image: filepath.Join(t.TempDir(), "image"), mount: t.TempDir()}
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.image, megabytes*1e6); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{slices.Concat([]string{"mkfs.ext4", "-q"}, options, []string{d.image}), {"mount", "-o", "loop", d.image, d.mount}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			if os.Getenv("CI") == "" {
				t.Skipf("this machine cannot mount a file system: %s", out)
			}
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() { d.unmount(t) })
	return d
}

// remount reads the disk anew, as after the machine was started.
func (d testDisk) remount(t *testing.T, options ...string) {
	t.Helper()
	d.unmount(t)
	d.run(t, append(append([]string{"mount", "-o", "loop"}, options...), d.image, d.mount)...)
}

// remountAsLeft mounts what was written to the disk so far, repaired as when a machine starts.
// What the kernel still holds in memory is lost, as if the power had gone now.
func (d testDisk) remountAsLeft(t *testing.T) {
	t.Helper()
	left := d.image + ".left"
	d.run(t, "cp", "--sparse=always", d.image, left)
	d.unmount(t)
	if err := os.Rename(left, d.image); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("e2fsck", "-fy", d.image).CombinedOutput()
	var status *exec.ExitError
	if err != nil && (!errors.As(err, &status) || status.ExitCode() > 1) { // 1: it has repaired something
		t.Fatalf("e2fsck: %v: %s", err, out)
	}
	d.run(t, "mount", "-o", "loop", d.image, d.mount)
}

// unmount waits until the disk is not in use: a process that another test starts holds this
// test's files until it executes its program.
func (d testDisk) unmount(t *testing.T) {
	t.Helper()
	eventually(t, "the disk is not in use", func() bool { return exec.Command("umount", d.mount).Run() == nil })
}

func (d testDisk) run(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Errorf("%v: %v: %s", args, err, out)
	}
}

// diskProcess is the child: what it does next, it is told on its input.
func diskProcess(dir string) error {
	ctx := context.Background()
	o := Options{Path: dir}
	if os.Getenv(guardEnv) == "off" {
		o.MinFree = -1
	}
	s, err := Open(ctx, o)
	if err != nil {
		return err
	}
	w, err := onlyWebhook(ctx, s)
	if err != nil {
		return err
	}
	l, err := s.Lane(w, queue.LaneOptions{MaxInFlight: 1000})
	if err != nil {
		return err
	}
	random := rand.NewChaCha8([32]byte{1})
	n := 0
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch in.Text() {
		case "fill":
			for err = nil; err == nil; n++ {
				e := entry(n, w)
				e.Body = make([]byte, 64<<10)
				_, _ = random.Read(e.Body)
				var r queue.Receipt
				if r, err = s.Enqueue(ctx, e); err == nil {
					fmt.Println("ack", r.Event.ID)
				}
			}
			fmt.Println("refused", errors.Is(err, queue.ErrFull), errors.Is(s.Health(), queue.ErrFull))
		case "settle":
			for got := 0; got < 200; {
				leases, err := l.Next(ctx, 200-got)
				if err != nil {
					return err
				}
				for _, lease := range leases {
					if err := lease.Ack(queue.Attempt{At: time.Now(), Status: 200}); err != nil {
						return err
					}
				}
				got += len(leases)
			}
			fmt.Println("settled")
		case "count":
			fmt.Println("delivered", s.Stats(context.Background()).Webhooks[w].Delivered)
		case "rest":
			fmt.Println("rests", rests(s, time.Second))
		case "close":
			return s.Close(ctx)
		}
	}
	return nil
}

// rests reports whether no table was written for a time: none came and none went, of
// a memtable or of a merge, and no merge began one.
func rests(s *Store, during time.Duration) bool {
	look := func() (tables map[uint64]bool, begun time.Time) {
		tables = make(map[uint64]bool)
		for _, one := range s.db.Tables() {
			tables[one.ID] = true
		}
		_, begun = s.compactions.Idle()
		return tables, begun
	}
	tables, begun := look()
	<-time.After(during)
	now, last := look()
	return maps.Equal(tables, now) && last.Equal(begun)
}

type child struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
	ids []string
}

func startDiskProcess(t *testing.T, dir, guard string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), diskEnv+"="+dir, guardEnv+"="+guard)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return &child{t: t, cmd: cmd, in: in, out: bufio.NewScanner(out)}
}

// ask sends a command and returns the first line that is no acknowledgement;
// empty when the process is gone.
func (c *child) ask(command string) string {
	_, _ = io.WriteString(c.in, command+"\n")
	for c.out.Scan() {
		id, ok := strings.CutPrefix(c.out.Text(), "ack ")
		if !ok {
			return c.out.Text()
		}
		c.ids = append(c.ids, id)
	}
	return ""
}

// fillUp leaves no free byte to anybody but root's reserve.
func fillUp(t *testing.T, mount string) (file string) {
	t.Helper()
	file = filepath.Join(mount, "somebody-else")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 1<<20)
	for size := len(block); size >= 512; {
		if _, err := f.Write(block[:size]); err != nil {
			size /= 2
		}
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return file
}

// TestFullDiskRefusesAndLives: a disk that the store fills itself, and that
// somebody else then fills to the last byte, costs no event and no process;
// deliveries go on while there is room, and resume when there is room again. The
// larger disk takes enough for Badger to merge tables, for which it needs room too.
func TestFullDiskRefusesAndLives(t *testing.T) {
	t.Parallel()
	sizes := []int64{160}
	if soak() > 0 {
		sizes = append(sizes, 400)
	}
	for _, megabytes := range sizes {
		t.Run(fmt.Sprintf("%d MB", megabytes), func(t *testing.T) {
			t.Parallel()
			fullDisk(t, smallDisk(t, megabytes).mount, false)
		})
	}
}

// TestStoreClosesOnADiskWithoutAByte: the process ends well, and what it had
// acknowledged is there when the disk has room again.
func TestStoreClosesOnADiskWithoutAByte(t *testing.T) {
	t.Parallel()
	fullDisk(t, smallDisk(t, 160).mount, true)
}

// fullDisk fills a disk. The store is closed while it is full, or when there is
// room again.
func fullDisk(t *testing.T, mount string, closes bool) {
	t.Helper()
	dir := filepath.Join(mount, "store")
	c := startDiskProcess(t, dir, "on")
	if got := c.ask("fill"); got != "refused true true" {
		t.Fatalf("filling ended with %q", got)
	}
	if len(c.ids) < 400 {
		t.Errorf("only %d events fitted", len(c.ids))
	}
	if got := c.ask("settle"); got != "settled" {
		t.Fatalf("settling on a full disk ended with %q", got)
	}
	eventually(t, "deliveries go on in the reserve", func() bool { return c.ask("count") == "delivered 200" })
	// Who fills the disk while a table is written ends the process; that is not promised.
	eventually(t, "no table is being written", func() bool { return c.ask("rest") == "rests true" })
	other := fillUp(t, mount)
	if got := c.ask("fill"); got != "refused true true" {
		t.Fatalf("accepting on a disk without a byte ended with %q", got)
	}
	if got := c.ask("settle"); got != "settled" {
		t.Fatalf("settling on a disk without a byte ended with %q", got)
	}
	if got := c.ask("count"); got != "delivered 200" {
		t.Errorf("%s, though nothing could be written", got)
	}
	if closes {
		start := time.Now()
		c.ask("close")
		if err := c.cmd.Wait(); err != nil {
			t.Fatalf("closing on a disk without a byte ends the process with %v", err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("closing on a disk without a byte took %v", took)
		}
		if err := os.Remove(other); err != nil {
			t.Fatal(err)
		}
		allThere(t, dir, c.ids)
		return
	}
	// Also at the start nothing is touched that has no room.
	second := startDiskProcess(t, filepath.Join(mount, "second"), "on")
	if err := second.cmd.Wait(); err == nil || second.cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("opening a store on a full disk ended with %v, want ErrFull", err)
	}
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what was settled is written once there is room", func() bool { return c.ask("count") == "delivered 400" })
	c.ask("close")
	if err := c.cmd.Wait(); err != nil {
		t.Fatalf("the process ended with %v", err)
	}
	allThere(t, dir, c.ids)
}

// allThere opens a store and looks for events by their ids.
func allThere(t *testing.T, dir string, ids []string) {
	t.Helper()
	s := openAt(t, Options{Path: dir})
	for _, id := range ids {
		eid, err := queue.ParseEventID(id)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Event(context.Background(), eid); err != nil {
			t.Errorf("acknowledged, and lost: %v", err)
		}
	}
}

// TestWithoutTheGuardAFullDiskKills is the negative control: it shows that the
// test above would notice.
func TestWithoutTheGuardAFullDiskKills(t *testing.T) {
	t.Parallel()
	mount := smallDisk(t, 80).mount
	c := startDiskProcess(t, filepath.Join(mount, "store"), "off")
	got := c.ask("fill")
	err := c.cmd.Wait()
	if got != "" || err == nil {
		t.Fatalf("the process lived and said %q", got)
	}
}

// TestRestoreOnASmallDiskLeavesNothing: a backup, and a store that is salvaged,
// that the disk has no room for are refused, the process lives, and nothing is
// left on the disk.
func TestRestoreOnASmallDiskLeavesNothing(t *testing.T) {
	t.Parallel()
	from := filepath.Join(t.TempDir(), "store")
	s, err := Open(t.Context(), Options{Path: from})
	if err != nil {
		t.Fatal(err)
	}
	random := rand.NewChaCha8([32]byte{1})
	for n := range 80 {
		e := entry(n)
		e.Body = make([]byte, 500<<10)
		_, _ = random.Read(e.Body)
		enqueue(t, s, e)
	}
	var backup bytes.Buffer
	if _, err := s.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	mount := smallDisk(t, 70).mount
	to := filepath.Join(mount, "store")
	if _, _, err := Restore(t.Context(), &backup, RestoreOptions{Path: to}); !errors.Is(err, queue.ErrFull) {
		t.Errorf("restoring ends with %v", err)
	}
	if _, err := Salvage(t.Context(), SalvageOptions{From: from, To: to}); !errors.Is(err, queue.ErrFull) {
		t.Errorf("salvaging ends with %v", err)
	}
	entries, err := os.ReadDir(mount)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "lost+found" {
			t.Errorf("%s is left on the disk", e.Name())
		}
	}
}
