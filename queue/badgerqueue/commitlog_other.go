//go:build !linux

package badgerqueue

import "github.com/dgraph-io/badger/v4"

// commitLog is for Linux alone, where unmapped pages keep what they hold.
type commitLog struct{}

var errNoLog error

func badgerSyncs() bool { return true }

func newCommitLog(*badger.DB) *commitLog { return nil }

func (*commitLog) sync() error       { return nil }
func (*commitLog) short() bool       { return false }
func (*commitLog) reserve(int) error { return nil }
func (*commitLog) extend() error     { return nil }
