package relay

import (
	"time"

	"github.com/userhero/relay/queue"
)

// Observer is told what happens, for metrics. Its methods are called from any
// goroutine and must return at once.
type Observer interface {
	// Accepted: an event of this type is on disk.
	Accepted(eventType string)
	// Rejected: an event was refused; reason is one of a fixed list.
	Rejected(reason string)
	// Attempted: an attempt ended; outcome is "ok" or the class of the failure,
	// and span is where it is traced.
	Attempted(webhook, outcome string, took time.Duration, span queue.TraceContext)
	// Delivered: an event reached its webhook, this long after it was accepted in
	// the span creation.
	Delivered(webhook string, endToEnd time.Duration, creation queue.TraceContext)
	// StateChanged: a webhook's state is another.
	StateChanged(webhook, from, to string)
	// FilterFailed: the webhook's filter could not judge an event, which is not
	// sent.
	FilterFailed(webhook string)
	// Deleted: there is no such webhook any more, and nothing more will be said
	// of it.
	Deleted(webhook string)
	// Mailed: a notice of this kind was sent; outcome is "ok", "retry" or
	// "failed".
	Mailed(kind, outcome string)
}

// nobody is the observer where none is given.
type nobody struct{}

func (nobody) Accepted(string)                                             {}
func (nobody) Rejected(string)                                             {}
func (nobody) Attempted(string, string, time.Duration, queue.TraceContext) {}
func (nobody) Delivered(string, time.Duration, queue.TraceContext)         {}
func (nobody) StateChanged(string, string, string)                         {}
func (nobody) FilterFailed(string)                                         {}
func (nobody) Deleted(string)                                              {}
func (nobody) Mailed(string, string)                                       {}
