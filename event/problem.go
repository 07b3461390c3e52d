package event

import (
	"encoding/json"
	"net/http"
	"strings"
)

// Problem is a refusal that says what is wrong with the input and where. As
// JSON it is a problem document of RFC 9457, application/problem+json.
type Problem struct {
	// Status is the HTTP status code: 400 for what is no proper JSON, 422 for
	// wrong types or values and for what has no stable form.
	Status int `json:"status"`
	// Title is the status's phrase.
	Title string `json:"title"`
	// Detail says what to do.
	Detail string `json:"detail"`
	// Errors are the places that are wrong, if any can be named.
	Errors []FieldError `json:"errors,omitempty"`
}

// FieldError is one place that is wrong.
type FieldError struct {
	// Pointer is a JSON pointer (RFC 6901) into the input; empty is all of it.
	Pointer string `json:"pointer"`
	// Detail says what is wrong there.
	Detail string `json:"detail"`
}

// NewProblem makes a problem; the title follows from the status.
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

// JSON is the problem document.
func (p *Problem) JSON() []byte {
	b, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings and an int always marshal
	}
	return b
}

// escapePointer escapes one reference token of a JSON pointer.
var escapePointer = strings.NewReplacer("~", "~0", "/", "~1")

// malformed is the refusal of what is no proper JSON.
func malformed(pointer, detail string) *Problem {
	return NewProblem(http.StatusBadRequest, "The body is not valid JSON.", FieldError{pointer, detail})
}

// unstable is the refusal of what receivers could not verify a signature of.
func unstable(pointer, detail string) *Problem {
	return NewProblem(http.StatusUnprocessableEntity,
		"The body holds something that JavaScript would read as another value, so no receiver could verify its signature.",
		FieldError{pointer, detail})
}

// invalid is the refusal of wrong types and values.
func invalid(errors ...FieldError) *Problem {
	return NewProblem(http.StatusUnprocessableEntity, "The feedback has members of the wrong type or value.", errors...)
}
