//go:build race

package body

// hostile is how many hostile feedbacks the tests make messages of. Under the race detector
// each takes tenths of a second; these reach every limit.
const hostile = 150
