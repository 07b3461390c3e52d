package main

import (
	"bytes"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/userhero/relay/bench/histogram"
)

// A submission is 1 KiB of ordinary feedback that contains its number.
const (
	numberName  = `"n":"`
	numberWidth = 12
	submissionA = `{"message":"The export button does not work when I select more than a hundred items. `
	submissionB = `","category":"bug","rating":2,"context":{"pageUrl":"/dashboard/reports","referrer":"/dashboard","browser":"Chrome","browserVersion":"120","os":"macOS","deviceType":"desktop","viewport":{"width":1920,"height":1080},"timezone":"America/New_York","locale":"en-US","country":"US"},"metadata":{"userId":"user_123",` + numberName
	submissionC = `"}}`
)

var submissionFill = strings.Repeat("It spins. ", 103)[:1024-len(submissionA)-len(submissionB)-numberWidth-len(submissionC)]

func submission(into []byte, n uint64) []byte {
	into = append(into, submissionA...)
	into = append(into, submissionFill...)
	into = append(into, submissionB...)
	number := strconv.FormatUint(n, 10)
	into = append(into, "000000000000"[len(number):]...)
	into = append(into, number...)
	return append(into, submissionC...)
}

// number returns the number in an event document made from a submission.
func number(document []byte) (uint64, bool) {
	_, rest, ok := bytes.Cut(document, []byte(numberName))
	if !ok || len(rest) < numberWidth {
		return 0, false
	}
	n, err := strconv.ParseUint(string(rest[:numberWidth]), 10, 64)
	return n, err == nil
}

// arrivals measures the time from sending a submission to its delivery.
type arrivals struct {
	mu        sync.Mutex
	began     map[uint64]time.Time
	histogram histogram.Histogram
}

func (a *arrivals) sent(n uint64, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.began == nil {
		a.began = map[uint64]time.Time{}
	}
	a.began[n] = at
}

func (a *arrivals) deliver(_ string, body []byte, at time.Time) {
	n, ok := number(body)
	if !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if began, ok := a.began[n]; ok {
		a.histogram.Record(at.Sub(began))
		delete(a.began, n)
	}
}

func (a *arrivals) quantile(q float64) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.histogram.Quantile(q)
}
