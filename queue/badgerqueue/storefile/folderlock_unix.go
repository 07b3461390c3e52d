//go:build linux || darwin || freebsd

package storefile

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// lockPatience is how long another holder is waited for: one that has just
	// closed the store may have started a process, which shares its lock until it
	// has become another program.
	lockPatience = time.Second
	lockPoll     = 10 * time.Millisecond
)

// Lock takes the lock that Badger takes, so that nobody writes into the
// store while its files are looked at. A process that died holds none, whatever
// its LOCK file says.
func Lock(path string) (unlock func(), err error) {
	d, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	patience := time.Now().Add(lockPatience)
	for {
		err = unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(patience) {
			break
		}
		<-time.After(lockPoll)
	}
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return nil, errors.Join(fmt.Errorf("%w: %s", ErrLocked, path), d.Close())
	case err != nil:
		return nil, errors.Join(fmt.Errorf("locking the store at %s: %w", path, err), d.Close())
	}
	return func() {
		_ = unix.Flock(int(d.Fd()), unix.LOCK_UN) // whoever shares it
		_ = d.Close()
	}, nil
}
