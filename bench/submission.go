package main

import (
	"bytes"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/userhero/relay/bench/text"
)

// A submission is 1 KiB of ordinary feedback that contains its number, with a different
// message each. submission has a context, as a widget sends it. In a bare one the relay
// fills in what it finds in the fields of the request.
const (
	numberName  = `"n":"`
	numberWidth = 12
	submissionA = `{"message":"`
	bareB       = `","category":"bug","rating":2,"metadata":{"userId":"user_123",` + numberName
	submissionB = `","category":"bug","rating":2,"context":{"pageUrl":"/dashboard/reports","referrer":"/dashboard","browser":"Chrome","browserVersion":"120","os":"macOS","deviceType":"desktop","viewport":{"width":1920,"height":1080},"timezone":"America/New_York","locale":"en-US","country":"US"},"metadata":{"userId":"user_123",` + numberName
	submissionC = `"}}`
)

// bareFields are what a browser sends, beside the usual, with a bare submission.
const bareFields = "User-Agent: Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36\r\n" +
	"Accept-Language: en-US,en;q=0.9\r\nReferer: https://app.example.com/dashboard/reports\r\n"

func submission(into []byte, n uint64) []byte { return submit(into, n, submissionB) }

func bareSubmission(into []byte, n uint64) []byte { return submit(into, n, bareB) }

func submit(into []byte, n uint64, rest string) []byte {
	into = append(into, submissionA...)
	into = text.Append(into, n, 1024-len(submissionA)-len(rest)-numberWidth-len(submissionC))
	into = append(into, rest...)
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
	mu    sync.Mutex
	began map[uint64]time.Time
	took  []time.Duration
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
		a.took = append(a.took, at.Sub(began))
		delete(a.began, n)
	}
}

// sorted returns the times.
func (a *arrivals) sorted() []time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Sorted(slices.Values(a.took))
}
