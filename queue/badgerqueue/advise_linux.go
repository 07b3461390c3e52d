package badgerqueue

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// adviseMemtables tells the kernel not to read around the pages of the
// memtables' logs. Badger writes them front to back through a memory map;
// read-around makes the kernel write whole clusters of pages at every sync,
// ten times the bytes of the record.
func adviseMemtables(path string) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		abs = real
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer func() { _ = maps.Close() }()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		// 7f00…-7f01… rw-s 00000000 fe:00 1234   /var/lib/userhero/00001.mem
		line := lines.Text()
		i := strings.IndexByte(line, '/')
		if i < 0 || !strings.HasSuffix(line, ".mem") || filepath.Dir(line[i:]) != abs {
			continue
		}
		span, _, _ := strings.Cut(line, " ")
		from, to, _ := strings.Cut(span, "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err1 != nil || err2 != nil || end <= start {
			continue
		}
		// The mapping may be gone by now; then the kernel says ENOMEM, and an
		// advice that is not taken costs speed alone.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(start), uintptr(end-start), unix.MADV_RANDOM)
	}
}
