//go:build unix && !linux

package lean

// unacknowledged is not known here.
func (*socket) unacknowledged() (unacked uint64, over bool) { return 0, true }
