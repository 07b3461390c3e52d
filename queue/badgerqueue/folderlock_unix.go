//go:build linux || darwin || freebsd

package badgerqueue

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// lockFolder takes the lock that Badger takes, so that nobody writes into the
// store while its files are looked at. A process that died holds none, whatever
// its LOCK file says.
func lockFolder(path string) (unlock func(), err error) {
	d, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errors.Join(inUse(path), d.Close())
	} else if err != nil {
		return nil, errors.Join(fmt.Errorf("locking the store at %s: %w", path, err), d.Close())
	}
	return func() { _ = d.Close() }, nil
}
