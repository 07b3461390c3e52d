//go:build race

package simulation

// underRace says that everything is several times slower.
const underRace = true
