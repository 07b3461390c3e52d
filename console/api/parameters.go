package api

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/userhero/relay/event"
)

// Sizes of pages. A page has fewer deliveries than events, because each attempt of a
// delivery may hold 16 KiB of an answer.
const (
	defaultLimit  = 50
	maxEvents     = 1000
	maxDeliveries = 200
	maxWebhooks   = 1000 // the default too: few relays have more webhooks
)

// parameters reads a query string and collects what is wrong with it.
type parameters struct {
	values   url.Values
	problems []string
}

// bad adds what is wrong with a parameter.
func (p *parameters) bad(name, detail string) {
	p.problems = append(p.problems, name+": "+detail)
}

// err returns one problem with everything that was wrong, or nil.
func (p *parameters) err() error {
	if len(p.problems) == 0 {
		return nil
	}
	return event.NewProblem(http.StatusBadRequest, strings.Join(p.problems, "; "))
}

func (p *parameters) text(name string) string { return p.values.Get(name) }

// oneOf reads a parameter that has few values; empty if it is absent.
func (p *parameters) oneOf(name string, allowed ...string) string {
	v := p.values.Get(name)
	if v != "" && !slices.Contains(allowed, v) {
		p.bad(name, fmt.Sprintf("%q is not one of %s", v, strings.Join(allowed, ", ")))
	}
	return v
}

// time reads an RFC 3339 time; zero if it is absent.
func (p *parameters) time(name string) time.Time {
	v := p.values.Get(name)
	if v == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, v)
	if err != nil {
		p.bad(name, fmt.Sprintf("%q is not an RFC 3339 time such as 2026-01-07T15:30:00Z", v))
	}
	return t
}

// rating reads a rating of 1 to 5; 0 if it is absent.
func (p *parameters) rating(name string) int {
	v := p.oneOf(name, "1", "2", "3", "4", "5")
	n, _ := strconv.Atoi(v)
	return n
}

// flag reads a parameter that is true or false; false if it is absent.
func (p *parameters) flag(name string) bool { return p.oneOf(name, "true", "false") == "true" }

// limit reads how many rows a page may have, at most most.
func (p *parameters) limit(most int) int { return p.limitOr(defaultLimit, most) }

func (p *parameters) limitOr(absent, most int) int {
	v := p.values.Get("limit")
	if v == "" {
		return absent
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		p.bad("limit", fmt.Sprintf("%q is not a number above zero", v))
		return absent
	}
	return min(n, most)
}
