//go:build !linux

package badgerqueue

import "errors"

func exchange(string, string) error { return errors.ErrUnsupported }
