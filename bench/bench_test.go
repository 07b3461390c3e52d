package main

import (
	"bytes"
	"encoding/json"
	"testing"
)

func TestSubmissionIsOneKibibyteOfValidJSON(t *testing.T) {
	t.Parallel()
	for _, n := range []uint64{0, 7, 999_999_999_999} {
		body := submission(nil, n)
		if len(body) != 1024 || !json.Valid(body) {
			t.Errorf("%d bytes: %s", len(body), body)
		}
		if got, ok := number(body); !ok || got != n {
			t.Errorf("number %d, %t, want %d", got, ok, n)
		}
	}
	if _, ok := number(bytes.Repeat([]byte("x"), 40)); ok {
		t.Error("a number where there is none")
	}
}

func TestMedian(t *testing.T) {
	t.Parallel()
	if median([]float64{3, 1, 2}) != 2 || median([]float64{4, 1, 2, 3}) != 2.5 || median(nil) != 0 {
		t.Error("not the median")
	}
}
