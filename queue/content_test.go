package queue_test

import (
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/layout"
)

// TestFeedbackHashNeverChanges: stores hold the hashes of erased feedback. They are those
// of the keys under which badgerqueue stores feedback.
func TestFeedbackHashNeverChanges(t *testing.T) {
	t.Parallel()
	for _, id := range []queue.FeedbackID{
		{ID: "fb"}, {Project: "p", ID: "fb"}, {Project: "pf", ID: "b"}, {Project: strings.Repeat("p", 255), ID: "fb"},
		{Project: strings.Repeat("p", 256), ID: strings.Repeat("i", queue.MaxFeedbackID)},
	} {
		if id.Hash() != sha256.Sum256(layout.FeedbackKey(id)) {
			t.Errorf("%v has another hash than its key", id)
		}
	}
}
