//go:build !unix

package badgerqueue

import "io/fs"

// closable says that files have owners and permissions.
const closable = false

func owner(fs.FileInfo) (uid, gid int, ok bool) { return 0, 0, false }

func adopt(string, string) error { return nil }
