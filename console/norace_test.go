//go:build !race

package console_test

// slowness is how much longer code takes: race_test.go.
const slowness = 1
