package caddymodule

import (
	"fmt"

	"github.com/userhero/relay/intake"
	"github.com/userhero/relay/relay"
)

// Limit is a rate with a burst.
type Limit struct {
	// The number of submissions per time, such as `10/s`, `100/m` or `5/10s`. Required.
	Rate string `json:"rate"`

	// How many submissions may come at once. Default: the number in `rate`.
	Burst int `json:"burst,omitempty"`
}

// resolve returns the limit, or nil for no limit.
func (l *Limit) resolve() (*intake.Limit, error) {
	if l == nil {
		return nil, nil
	}
	rate, err := relay.ParseRate(l.Rate)
	if err != nil {
		return nil, err
	}
	if l.Burst < 0 {
		return nil, fmt.Errorf("a burst of %d; it must be at least 1", l.Burst)
	}
	return &intake.Limit{Events: rate.Events, Per: rate.Per, Burst: l.Burst}, nil
}
