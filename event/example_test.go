package event_test

import (
	"errors"
	"fmt"
	"time"

	"github.com/userhero/relay/event"
)

var now = time.Date(2026, 1, 7, 15, 30, 0, 0, time.UTC)

// A submission becomes the document that is stored, signed and sent.
func ExampleParse() {
	feedback, err := event.Parse([]byte(`{"message": "The export fails", "rating": 2.0, "team": "blue"}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer feedback.Release()
	feedback.Fill(event.Defaults{Project: "proj_xyz", Context: event.Context{Browser: "Firefox"}})
	feedback.Complete(now, func(time.Time) string { return "fb_abc123" })
	document, err := feedback.Document(event.Created, now)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(string(document))
	// Output:
	// {"event":"feedback.created","timestamp":"2026-01-07T15:30:00Z","data":{"id":"fb_abc123","projectId":"proj_xyz","message":"The export fails","rating":2,"status":"new","context":{"browser":"Firefox"},"createdAt":"2026-01-07T15:30:00Z","team":"blue"}}
}

// A refusal is a Problem, which says where the input is wrong.
func ExampleParse_refused() {
	_, err := event.Parse([]byte(`{"message": "m", "rating": 7, "context": {"viewport": {"width": "wide"}}}`))
	var problem *event.Problem
	if errors.As(err, &problem) {
		fmt.Println(problem.Status)
		for _, e := range problem.Errors {
			fmt.Println(e.Pointer, e.Detail)
		}
	}
	// Output:
	// 422
	// /rating is 7; it must be an integer from 1 to 5
	// /context/viewport/width is a string; it must be a number
}

// A change is merged into stored feedback as RFC 7396 says: null removes a member.
func ExampleFeedback_Merge() {
	stored := []byte(`{"event":"feedback.created","timestamp":"2026-01-07T15:30:00Z","data":{"id":"fb_abc123","message":"m","rating":2,"status":"new","createdAt":"2026-01-07T15:30:00Z"}}`)
	feedback, err := event.Stored(stored)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer feedback.Release()
	patch, err := event.ParsePatch([]byte(`{"status": "done", "rating": null}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	changed, err := feedback.Merge(patch)
	if err != nil {
		fmt.Println(err)
		return
	}
	document, err := feedback.Document(event.Updated, now)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(changed)
	fmt.Println(string(document))
	// Output:
	// true
	// {"event":"feedback.updated","timestamp":"2026-01-07T15:30:00Z","data":{"id":"fb_abc123","message":"m","status":"done","createdAt":"2026-01-07T15:30:00Z"}}
}

// The canonical form is what JSON.stringify(JSON.parse(text)) returns in V8.
func ExampleCanonical() {
	text, err := event.Canonical([]byte(`{"b": 1.50, "2": "\u00e9", "1": 1e3}`))
	fmt.Println(string(text), err)
	_, err = event.Canonical([]byte(`{"tweet": 9007199254740993}`))
	fmt.Println(err)
	// Output:
	// {"1":1000,"2":"é","b":1.5} <nil>
	// The body holds something that JavaScript would read as another value, so no receiver could verify its signature.; /tweet: JavaScript would read the integer as 9007199254740992; send it as a string
}
