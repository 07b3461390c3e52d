package badgerqueue

import (
	"os"
	"strconv"
)

// soak is how many times over the long runs go, by the environment's SOAK; 0,
// the default, is a short run that fits a build.
func soak() int {
	n, _ := strconv.Atoi(os.Getenv("SOAK"))
	return n
}
