package e2e

import "testing"

// document is the part of an event document that tests look at.
type document struct {
	Event     string
	Timestamp string
	Data      struct {
		ID        string
		ProjectID string `json:"projectId"`
		Message   string
		Status    string
	}
}

func documentOf(t *testing.T, a arrival) document {
	t.Helper()
	if a.noJSON != nil {
		t.Fatalf("the body %q is no JSON: %v", a.body, a.noJSON)
	}
	return a.document
}
