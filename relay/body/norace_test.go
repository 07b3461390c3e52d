//go:build !race

package body

// hostile is how many hostile feedbacks the tests make messages of: race_test.go.
const hostile = 1000
