package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestQuestions runs every block of commands of docs/questions.md against a relay whose
// webhook has failed, and was disabled while something came.
func TestQuestions(t *testing.T) {
	badgerOnly(t, "its check")
	t.Parallel()
	text := read(t, "../docs/questions.md")
	if n := len(regexp.MustCompile(`(?m)^\*\*\d+\. `).FindAllString(text, -1)); n != 25 {
		t.Errorf("it has %d questions", n)
	}
	r := startReceiver(t, func(arrival) int { return http.StatusInternalServerError })
	s := startRelay(t, relayOptions{app: fmt.Sprintf("webhook crm {\n url %s\n secret demo-secret\n retry none\n}", r.url)})
	s.mustSubmit("the export button does nothing")
	eventually(t, 20*time.Second, "the delivery has failed", func() bool { return s.webhook("crm").Counts.Failed == 1 })
	s.ask(http.MethodPost, "/webhooks/crm/disable", "", http.StatusOK)
	s.mustSubmit("nobody gets this yet")
	s.ask(http.MethodPost, "/webhooks/crm/enable", "", http.StatusOK)

	// The commands find the relay at its default address.
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nexec %s \"$@\" --address %s\n", binary(t), s.admin)
	if err := os.WriteFile(filepath.Join(dir, "caddy"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllStringSubmatch(text, -1)
	for _, block := range blocks {
		line := strings.NewReplacer("localhost:2019", s.admin, "/tmp/body", filepath.Join(dir, "body")).Replace(block[1])
		cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", line)
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "HOME="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s%v\n%s", block[1], err, out)
		}
	}
	if len(blocks) < 10 {
		t.Errorf("only %d blocks of commands", len(blocks))
	}
	r.await(t, 20*time.Second, "what was missed, and what had failed again", func(all []arrival) bool { return len(all) >= 3 })
}
