//go:build race

package console_test

// slowness is how much longer code takes under the race detector.
const slowness = 15
