//go:build !unix

package caddymodule

func asOwner(_ string, do func() error) error { return do() }
