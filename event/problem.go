package event

import (
	"encoding/json"
	"net/http"
	"strings"
)

// Problem is an error that says what is wrong with the input, and where. Its JSON is a problem
// document of RFC 9457, application/problem+json.
type Problem struct {
	// Status is the HTTP status code: 400 for input that is not JSON, 422 for wrong types
	// or values and for values that JavaScript would change.
	Status int `json:"status"`
	// Title is the phrase of the status.
	Title string `json:"title"`
	// Detail says what to do.
	Detail string `json:"detail"`
	// Errors are the places that are wrong, as far as they can be named.
	Errors []FieldError `json:"errors,omitempty"`
}

// FieldError is one place that is wrong.
type FieldError struct {
	// Pointer is a JSON pointer (RFC 6901) into the input. Empty is the whole input.
	Pointer string `json:"pointer"`
	// Detail says what is wrong there.
	Detail string `json:"detail"`
}

// NewProblem returns a problem with the title that belongs to the status.
func NewProblem(status int, detail string, errors ...FieldError) *Problem {
	title := http.StatusText(status)
	if status == http.StatusUnprocessableEntity {
		title = "Unprocessable Content" // RFC 9110 §15.5.21
	}
	return &Problem{Status: status, Title: title, Detail: detail, Errors: errors}
}

// Error implements error.
func (p *Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.Detail)
	for _, e := range p.Errors {
		b.WriteString("; ")
		if e.Pointer != "" {
			b.WriteString(e.Pointer + ": ")
		}
		b.WriteString(e.Detail)
	}
	return b.String()
}

// JSON returns the problem document.
func (p *Problem) JSON() []byte {
	b, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings and an int always marshal
	}
	return b
}

// escapePointer escapes one reference token of a JSON pointer.
var escapePointer = strings.NewReplacer("~", "~0", "/", "~1")

// malformed refuses input that is not JSON.
func malformed(pointer, detail string) *Problem {
	return NewProblem(http.StatusBadRequest, "The body is not valid JSON.", FieldError{pointer, detail})
}

// unstable refuses a value of which receivers could not verify the signature.
func unstable(pointer, detail string) *Problem {
	return NewProblem(http.StatusUnprocessableEntity,
		"The body holds something that JavaScript would read as another value, so no receiver could verify its signature.",
		FieldError{pointer, detail})
}

// invalid refuses wrong types and values.
func invalid(errors ...FieldError) *Problem {
	return NewProblem(http.StatusUnprocessableEntity, "The feedback has members of the wrong type or value.", errors...)
}
