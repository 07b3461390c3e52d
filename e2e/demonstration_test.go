package e2e

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/e2e/caddyproc"
)

// TestFirstMinute walks through the README's first minute with the Caddyfile
// of this repository, on other ports.
func TestFirstMinute(t *testing.T) {
	t.Parallel()
	site, admin := freeAddress(t), freeAddress(t)
	_, port, _ := strings.Cut(site, ":")
	demo, err := filepath.Abs("../examples/demo")
	if err != nil {
		t.Fatal(err)
	}
	caddyfile := strings.NewReplacer(
		"\n{\n", "\n{\n\tadmin "+admin+"\n", ":8080", ":"+port, "root examples/demo", "root "+demo,
	).Replace(read(t, "../Caddyfile"))
	p, err := caddyproc.Start(t.Context(), caddyproc.Options{
		Binary: binary(t), Dir: t.TempDir(), Caddyfile: caddyfile, Ready: "http://" + admin + "/userhero/healthz",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := p.Stop(ctx); err != nil {
			t.Error(err)
		}
	})

	base := "http://localhost:" + port
	if page := fetch(t, base, "text/html"); !strings.Contains(page, `<form id="feedback" action="/feedback" method="post">`) {
		t.Errorf("the page holds no form: %s", page)
	}
	// /feedback* would take these.
	for path, kind := range map[string]string{"/feedback.css": "text/css", "/feedback.js": "text/javascript"} {
		response, err := http.Get(base + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusOK || !strings.HasPrefix(response.Header.Get("Content-Type"), kind) {
			t.Errorf("GET %s: %s, %s", path, response.Status, response.Header.Get("Content-Type"))
		}
	}
	answer, err := http.Post(base+"/feedback", "application/json", strings.NewReader(`{"message":"The export button does not work","category":"bug","rating":2}`))
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusAccepted {
		t.Fatalf("submitting JSON: %s", answer.Status)
	}
	// The same form without script: the browser is led back to a page.
	answer, err = http.PostForm(base+"/feedback", url.Values{"message": {"sent as a form"}, "rating": {"5"}})
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode/100 != 2 {
		t.Fatalf("submitting a form: %s", answer.Status)
	}

	var arrived struct {
		Received []struct {
			Verified bool
			Body     string
		}
	}
	eventually(t, 10*time.Second, "both have arrived at the receiver", func() bool {
		if err := json.Unmarshal([]byte(fetch(t, base+"/receiver", "application/json")), &arrived); err != nil {
			t.Fatal(err)
		}
		return len(arrived.Received) == 2
	})
	for _, a := range arrived.Received {
		if !a.Verified || !strings.Contains(a.Body, `"projectId":"proj_demo"`) {
			t.Errorf("arrived: %+v", a)
		}
	}
	eventually(t, 10*time.Second, "the console says that all is well", func() bool {
		return strings.Contains(fetch(t, base+"/relay/", "text/html"), "The webhook is healthy; nothing waiting.")
	})
	if page := fetch(t, base+"/receiver", "text/html"); !strings.Contains(page, "The export button does not work") {
		t.Errorf("the receiver's page does not show the event: %s", page)
	}
}

// TestExampleConfigurationsAreValid: they adapt without a warning. They are not
// provisioned: the secrets that they name are not on this machine.
func TestExampleConfigurationsAreValid(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"../Caddyfile", "../examples/production/Caddyfile"} {
		out, err := caddyproc.Run(t.Context(), binary(t), t.TempDir(), "adapt", "--config", absolute(t, path))
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if strings.Contains(out, `"level":"warn"`) {
			t.Errorf("%s: %s", path, out)
		}
	}
}

func fetch(t *testing.T, url, accept string) string {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", accept)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s, %v", url, response.Status, err)
	}
	return string(body)
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
