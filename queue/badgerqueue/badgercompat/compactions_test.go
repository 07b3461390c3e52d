package badgercompat

import (
	"bytes"
	"os"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// TestCompactionWaitsForRoom: with too little free space no table is begun, and
// with enough it goes on.
func TestCompactionWaitsForRoom(t *testing.T) {
	t.Parallel()
	d := &Disk{accept: ReserveAccept, write: ReserveWrite}
	give := func(free int64) {
		d.avail.Store(free)
		d.read.Store(time.Now().Add(time.Hour).UnixNano())
	}
	give(ReserveTable + TableSize - 1)
	c := NewCompactions(d, func(err error) error { t.Error(err); return err }, nil)
	db, err := badger.Open(badger.DefaultOptions(t.TempDir()).WithLogger(nil))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	txn := db.NewTransaction(false)
	c.Watch(db, func() (*badger.Txn, func()) { return txn, func() {} })
	begun := make(chan int, 2)
	go func() {
		for n := range 2 {
			c.begin(0, 1)
			begun <- n
		}
	}()
	select {
	case <-begun:
		t.Fatal("a table was begun without room")
	case <-time.After(200 * time.Millisecond):
	}
	start := time.Now()
	give(ReserveTable + TableSize)
	<-begun
	<-begun
	c.end(0, false)
	if took := time.Since(start); took < writeTime {
		t.Errorf("the second was begun after %v, when the first may not have been written", took)
	}
}

// TestBadgerIsTheOneUnderstood: with another, read again what it says in its log and
// whether the error of a table is still forgotten.
func TestBadgerIsTheOneUnderstood(t *testing.T) {
	t.Parallel()
	mod, err := os.ReadFile("../../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(mod, []byte("github.com/dgraph-io/badger/v4 "+KnownBadger+"\n")) {
		t.Errorf("go.mod has another Badger than %s", KnownBadger)
	}
	if OtherBadger != "" {
		t.Errorf("this program has Badger %s", OtherBadger)
	}
}

// TestDeepMergeIsMeasured: of the tables of a level, the one that overlaps most in
// the next tells how much a merge may write.
func TestDeepMergeIsMeasured(t *testing.T) {
	t.Parallel()
	if deep := deepMerge(nil); deep != 0 {
		t.Errorf("an empty store may merge %d bytes", deep)
	}
	var tables []badger.TableInfo
	table := func(level int, from, to string, size uint32) {
		tables = append(tables, badger.TableInfo{Level: level, Left: []byte(from), Right: []byte(to), UncompressedSize: size})
	}
	table(0, "a", "z", 1000) // level 0 is merged whole
	table(lastLevel-1, "x", "y", 4)
	table(lastLevel-1, "b", "c", 1)
	table(lastLevel-1, "d", "p", 2)
	table(lastLevel, "p", "q", 64)
	table(lastLevel, "a", "b", 8)
	table(lastLevel, "g", "h", 32)
	table(lastLevel, "e", "f", 16)
	table(lastLevel, "z", "z", 128)
	if most := deepMerge(tables); most != 2+16+32+64 {
		t.Errorf("the heaviest merge writes %d bytes", most)
	}
}
