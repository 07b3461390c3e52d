package event

import "testing"

// TestRedactedKeepsWhatIsCounted: nothing that somebody wrote is left.
func TestRedactedKeepsWhatIsCounted(t *testing.T) {
	t.Parallel()
	for document, want := range map[string]string{
		`{"event":"feedback.created","timestamp":"2026-01-07T15:30:00Z","data":{"id":"fb_1","projectId":"p","widgetId":"w","message":"m","category":"bug","rating":2,"status":"new","screenshotUrl":"https://s","context":{"pageUrl":"/"},"metadata":{"userId":"u"},"createdAt":"2026-01-07T15:30:00Z","email":"a@b.example"}}`: `{"event":"feedback.created","timestamp":"2026-01-07T15:30:00Z","data":{"id":"fb_1","projectId":"p","widgetId":"w","category":"bug","rating":2,"status":"new","createdAt":"2026-01-07T15:30:00Z"}}`,
		`{"data":{"message":"m"}}`: `{"data":{}}`,
		`{"data":"m"}`:             `{}`,
		`m`:                        `{}`,
	} {
		if got := string(Redacted([]byte(document))); got != want {
			t.Errorf("%s becomes\n%s, want\n%s", document, got, want)
		}
		if got := string(Redacted([]byte(want))); got != want {
			t.Errorf("twice it becomes %s", got)
		}
	}
}
