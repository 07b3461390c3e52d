//go:build !unix

package command

func asOwner(_ string, do func() error) error { return do() }
