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
// webhook has a delivery that has failed, one that waits for a retry, and one that was
// missed, and looks at what the commands print.
func TestQuestions(t *testing.T) {
	badgerOnly(t, "its check")
	t.Parallel()
	text := read(t, "../docs/questions.md")
	if n := len(regexp.MustCompile(`(?m)^\*\*\d+\. `).FindAllString(text, -1)); n != 25 {
		t.Errorf("it has %d questions", n)
	}
	// What each block prints, by the number of its question.
	prints := map[string]string{
		"1":  `^1 delivery would be queued again\.\n1 delivery is queued again\.\n$`,
		"2":  `dlv_\S+ .* crm +failed +1 .* answered 500 .*\n1 delivery is queued again\.\n$`,
		"3":  `^[1-9]\d* deliver(y is|ies are) queued again\.\n$`,
		"4":  `^[1-9]\d* deliver(y|ies) would be queued again\.\n$`,
		"5":  `evt_\S+ .* fb_(?s:.*)\nuserhero_events_rejected_total\{`,
		"6":  `dlv_\S+ .* crm .* answered 500`,
		"7":  `(?m)^Projects +all\nEvents +feedback\.created feedback\.updated$`,
		"12": `(?m)^State +active$(?s:.*)^> X-UserHero-Test: +true$(?s:.*)^< status: +500$`,
		"15": `webhook disabled +admin +crm(?s:.*)\ncrm is active`,
		"16": `^The signature is right for this secret`,
		"24": `(?m)^Health +ok$`,
		"25": `(?m)^Verdict +nothing is wrong$`,
	}
	r := startReceiver(t, func(arrival) int { return http.StatusInternalServerError })
	webhook := func(retry string) string {
		return fmt.Sprintf("webhook crm {\n url %s\n secret demo-secret\n retry %s\n}", r.url, retry)
	}
	s := startRelay(t, relayOptions{app: webhook("none")})
	s.mustSubmit("the export button does nothing")
	eventually(t, 20*time.Second, "the delivery has failed", func() bool { return s.webhook("crm").Counts.Failed == 1 })
	s.options.app = webhook("1h")
	if err := s.reload(s.caddyfile(s.options)); err != nil {
		t.Fatal(err)
	}

	// The commands find the relay at its default address.
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nexec %s \"$@\" --address %s\n", binary(t), s.admin)
	if err := os.WriteFile(filepath.Join(dir, "caddy"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	question := ""
	for _, part := range regexp.MustCompile("(?ms)^\\*\\*(\\d+)\\. |^```sh\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		if part[1] != "" {
			question = part[1]
			continue
		}
		want := prints[question]
		if want == "" {
			t.Errorf("nobody knows what the commands of question %s print", question)
		}
		delete(prints, question)
		s.ask(http.MethodPost, "/webhooks/crm/disable", "", http.StatusOK)
		s.mustSubmit("nobody gets this yet")
		s.ask(http.MethodPost, "/webhooks/crm/enable", "", http.StatusOK)
		line := strings.NewReplacer("localhost:2019", s.admin, "/tmp/body", filepath.Join(dir, "body")).Replace(part[2])
		cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", line)
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "HOME="+dir)
		out, err := cmd.CombinedOutput()
		if err != nil || !regexp.MustCompile(want).Match(out) {
			t.Errorf("question %s\n%s%v\n%s\nwant: %s", question, part[2], err, out, want)
		}
		if question == "1" || question == "2" {
			eventually(t, 20*time.Second, "it was tried", func() bool { return s.webhook("crm").Counts.Pending == 0 })
		}
	}
	for question := range prints {
		t.Errorf("question %s has no commands", question)
	}
	r.await(t, 20*time.Second, "what was missed, and what had failed twice", func(all []arrival) bool {
		times := map[string]int{}
		for _, a := range all {
			times[a.delivery]++
		}
		delete(times, "") // tests
		again := 0
		for _, n := range times {
			if n > 1 {
				again++
			}
		}
		return len(times) >= 2 && again >= 1
	})
}
