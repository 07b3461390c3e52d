package badgercompat

import (
	"testing"
	"time"
)

// TestLargeFilesOfOthersDoNotFillALargeDisk: free space that falls quickly counts
// as gone before it is, on a disk that is nearly full, and on no other.
func TestLargeFilesOfOthersDoNotFillALargeDisk(t *testing.T) {
	t.Parallel()
	free := int64(100 << 30)
	d, err := NewDisk(func(string) (size, now int64, err error) { return 1 << 40, free, nil }, t.TempDir(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	take := func(n int64) {
		free -= n
		<-time.After(2 * FreeAge)
	}
	d.look()
	take(50 << 30)
	if err := d.RoomToAccept(); err != nil {
		t.Errorf("with %s free: %v", MiB(free), err)
	}
	<-time.After(2 * fallOver)
	free = 400 << 20
	d.look()
	<-time.After(fallOver + FreeAge)
	d.look()
	take(100 << 20)
	if d.RoomToWrite() {
		t.Errorf("%s are free, and %s went within %v: somebody fills the disk", MiB(free), MiB(100<<20), 2*FreeAge)
	}
}
