//go:build !unix

package storefile

import "io/fs"

// closable says that files have owners and permissions.
const closable = false

func owner(fs.FileInfo) (uid, gid int, ok bool) { return 0, 0, false }

func Adopt(string, string) error { return nil }

// NoRoom cannot tell here.
func NoRoom(error) bool { return false }
