//go:build !linux

package badgerqueue

// adviseMemtables does nothing: only Linux reads around a write fault.
func adviseMemtables(string) {}
