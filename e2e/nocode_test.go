package e2e

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestNoCodeFields: the table of docs/no-code.md has each field of the sample
// that a test send brings, in its order, with its value.
func TestNoCodeFields(t *testing.T) {
	t.Parallel()
	r := startReceiver(t, nil)
	s := startRelay(t, relayOptions{app: "webhook zapier {\n url " + r.url + "\n}"})
	response, err := s.client.Post("http://"+s.admin+"/userhero/webhooks/zapier/test", "application/json", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("test send: %s", response.Status)
	}
	sent := r.await(t, 10*time.Second, "the sample", func(all []arrival) bool { return len(all) == 1 })[0].body

	var want []string
	for _, f := range fieldsOf(t, sent) {
		path := strings.Join(f.path, ".")
		want = append(want, "| `"+strings.Join(f.path, "__")+"` | `1."+path+"` | `$json.body."+path+"` | `"+f.value+"` |")
	}
	_, table, _ := strings.Cut(read(t, "../docs/no-code.md"), "| Zapier | Make | n8n | sample |\n|---|---|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	if got := strings.Split(table, "\n"); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("docs/no-code.md has\n%s\nwant\n%s", table, strings.Join(want, "\n"))
	}
}

// field is a value of a JSON document that is no object, with the names that lead
// to it.
type field struct {
	path  []string
	value string
}

// fieldsOf returns the fields of a document in their order.
func fieldsOf(t *testing.T, document string) (fields []field) {
	t.Helper()
	tokens := json.NewDecoder(strings.NewReader(document))
	tokens.UseNumber()
	var walk func(path []string)
	walk = func(path []string) {
		token, err := tokens.Token()
		if err != nil {
			t.Fatalf("%v in %s", err, document)
		}
		switch v := token.(type) {
		case json.Delim:
			if v != '{' {
				t.Fatalf("the sample holds an array: %s", document)
			}
			for tokens.More() {
				name, err := tokens.Token()
				if err != nil {
					t.Fatal(err)
				}
				walk(append(path[:len(path):len(path)], name.(string)))
			}
			_, _ = tokens.Token() // }
		case json.Number:
			fields = append(fields, field{path, v.String()})
		case string:
			fields = append(fields, field{path, v})
		default:
			t.Fatalf("the sample holds %v: %s", v, document)
		}
	}
	walk(nil)
	return fields
}
