package api

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

// Sizes of pages. A delivery is shown with its attempts, each of which may hold
// 16 KiB of answer, so there are fewer on a page.
const (
	defaultLimit  = 50
	maxEvents     = 1000
	maxDeliveries = 200
	maxWebhooks   = 1000 // and so many where nothing is said: people have few
)

// parameters reads a query string and gathers what is wrong with it.
type parameters struct {
	values   url.Values
	problems []string
}

// bad notes what is wrong with a parameter.
func (p *parameters) bad(name, detail string) {
	p.problems = append(p.problems, name+": "+detail)
}

// err is one problem for all that was wrong, or nil.
func (p *parameters) err() error {
	if len(p.problems) == 0 {
		return nil
	}
	return event.NewProblem(http.StatusBadRequest, strings.Join(p.problems, "; "))
}

func (p *parameters) text(name string) string { return p.values.Get(name) }

// oneOf reads a parameter that has few values; absent is empty.
func (p *parameters) oneOf(name string, allowed ...string) string {
	v := p.values.Get(name)
	if v != "" && !slices.Contains(allowed, v) {
		p.bad(name, fmt.Sprintf("%q is none of %s", v, strings.Join(allowed, ", ")))
	}
	return v
}

// time reads a time of RFC 3339; absent is zero.
func (p *parameters) time(name string) time.Time {
	v := p.values.Get(name)
	if v == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, v)
	if err != nil {
		p.bad(name, fmt.Sprintf("%q is no time of RFC 3339, such as 2026-01-07T15:30:00Z", v))
	}
	return t
}

// limit reads how many rows a page may have, from 1 to most.
func (p *parameters) limit(most int) int { return p.limitOr(defaultLimit, most) }

func (p *parameters) limitOr(absent, most int) int {
	v := p.values.Get("limit")
	if v == "" {
		return absent
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		p.bad("limit", fmt.Sprintf("%q is no number above zero", v))
		return absent
	}
	return min(n, most)
}

func isNotFound(err error) bool { return errors.Is(err, queue.ErrNotFound) }
