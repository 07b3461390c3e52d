//go:build !linux

package badgercompat

// SyncsCommits is for Linux alone.
const SyncsCommits = false

// CommitLog does nothing here: Badger syncs.
type CommitLog struct{}

// OpenCommitLog returns no log.
func OpenCommitLog(string, string, int) (*CommitLog, error) { return nil, nil }

// Sync does nothing.
func (*CommitLog) Sync(int) error { return nil }

// Short is false.
func (*CommitLog) Short() bool { return false }

// Reserve does nothing.
func (*CommitLog) Reserve(int) error { return nil }

// Extend does nothing.
func (*CommitLog) Extend() error { return nil }

// Close does nothing.
func (*CommitLog) Close() {}
