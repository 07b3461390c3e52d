package caddymodule

import (
	"fmt"

	"github.com/userhero/relay/intake"
	"github.com/userhero/relay/relay"
)

// Limit is a rate with a burst.
type Limit struct {
	// How many submissions in which time, such as `10/s` or `100/m`.
	Rate string `json:"rate"`

	// How many may come at once. Default: as many as in one time unit.
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
