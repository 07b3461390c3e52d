package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// expressVersions are the folders that hold the Express versions under test.
var expressVersions = []string{"express4", "express5"}

// TestExpressAcceptsEveryEvent: receivers on Express 4 and 5, with the
// documented verification code unchanged, accept every event that the intake
// did not refuse.
func TestExpressAcceptsEveryEvent(t *testing.T) {
	t.Parallel()
	var webhooks strings.Builder
	receivers := map[string]string{}
	for _, version := range expressVersions {
		receivers[version] = startExpress(t, version).url
		// A refused event would wait for its retry longer than the test runs.
		fmt.Fprintf(&webhooks, "webhook %s {\n url %s\n secret %s\n retry 1h\n}\n", version, receivers[version], secret)
	}
	s := startRelay(t, relayOptions{app: webhooks.String()})

	for version, url := range receivers {
		mustRefuseWrongSignatures(t, s, version, url)
	}

	accepted := 0
	for name, body := range submissions(t) {
		response, answer, err := s.submit(body)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		switch {
		case response.StatusCode == http.StatusAccepted:
			accepted++
		case response.StatusCode/100 == 4 && response.Header.Get("Content-Type") == "application/problem+json":
		default:
			t.Errorf("%s: neither accepted nor a problem: %s: %s", name, response.Status, answer)
		}
	}
	if accepted < 250 {
		t.Errorf("only %d submissions were accepted: the test sends too little", accepted)
	}
	for _, version := range expressVersions {
		eventually(t, 60*time.Second, version+" has been sent every event", func() bool {
			c := s.webhook(version).Counts
			return c.Delivered+c.Retrying >= accepted && c.Pending+c.Held == 0
		})
		if c := s.webhook(version).Counts; c.Delivered != accepted {
			t.Errorf("%s accepted %d of %d, refused %d", version, c.Delivered, accepted, c.Retrying)
			for _, d := range s.deliveries(version) {
				if d.State != "delivered" {
					t.Logf("refused: delivery %s of %s", d.ID, d.FeedbackID)
				}
			}
		}
	}
}

// submissions are all the bodies to send, by name.
func submissions(t *testing.T) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for i, text := range nastyTexts() {
		all[fmt.Sprintf("nasty %d %.60s", i, text)] = fmt.Appendf(nil, `{"message":"m","metadata":{"v":%s}}`, text)
		all[fmt.Sprintf("nasty member of data %d %.60s", i, text)] = fmt.Appendf(nil, `{"message":"m","extra":%s}`, text)
	}
	for i, body := range nastyBodies() {
		all[fmt.Sprintf("nasty body %d %.60s", i, body)] = []byte(body)
	}
	for i, text := range randomTexts(200) {
		all[fmt.Sprintf("random %d %.60s", i, text)] = fmt.Appendf(nil, `{"message":"m","metadata":{"v":%s}}`, text)
	}
	for name, text := range jsonSuite(t) {
		all["suite "+name] = bytes.Join([][]byte{[]byte(`{"message":"m","metadata":{"v":`), []byte(`}}`)}, text)
	}
	return all
}

// jsonSuite reads a folder of JSON texts, valid and not, that lies beside some
// checkouts; without it the test's own inputs remain.
func jsonSuite(t *testing.T) map[string][]byte {
	t.Helper()
	folder := filepath.Join("..", "..", "shared", "json-suite")
	texts := map[string][]byte{}
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		texts[d.Name()], err = os.ReadFile(path)
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatalf("reading the JSON suite: %v", err)
	}
	t.Logf("%d texts of a JSON suite", len(texts))
	return texts
}
