package text

import (
	"encoding/json"
	"testing"
)

func TestTextIsAsLongAsAskedAndDiffers(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for n := range uint64(1000) {
		b := Append([]byte(`"`), n, 200)
		if string(b) != string(Append([]byte(`"`), n, 200)) {
			t.Fatalf("number %d is not the same text each time", n)
		}
		var text string
		if err := json.Unmarshal(append(b, '"'), &text); err != nil || len(text) != 200 {
			t.Fatalf("%q: %d bytes, %v", b, len(text), err)
		}
		seen[text] = true
	}
	if len(seen) < 990 {
		t.Errorf("only %d of 1000 differ", len(seen))
	}
}
