//go:build !linux

package storefile

import "errors"

func exchange(string, string) error { return errors.ErrUnsupported }
