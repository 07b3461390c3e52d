package caddymodule

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// recorder is an events handler that keeps the events it gets.
type recorder struct{}

var recorded = make(chan string, 16)

func init() { caddy.RegisterModule(recorder{}) }

// CaddyModule returns the Caddy module information.
func (recorder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.userhero_recorder", New: func() caddy.Module { return new(recorder) }}
}

// Handle implements caddyevents.Handler.
func (recorder) Handle(_ context.Context, e caddy.Event) error {
	recorded <- e.Name() + " " + e.Data["webhook"].(string)
	return nil
}

func TestChangesOfStateAreCaddyEvents(t *testing.T) {
	s, h := newSite(t), newHook(t)
	h.status = http.StatusInternalServerError
	var config map[string]any
	if err := json.Unmarshal(s.config("webhook app {\nurl "+h.URL+"\nretry 10ms\n}\n", "userhero /feedback*"), &config); err != nil {
		t.Fatal(err)
	}
	config["apps"].(map[string]any)["events"] = map[string]any{"subscriptions": []any{map[string]any{
		"events":   []any{"webhook_failing", "webhook_active"},
		"handlers": []any{map[string]any{"handler": "userhero_recorder"}},
	}}}
	source, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(source, true); err != nil {
		t.Fatal(err)
	}
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-recorded:
			if got != want {
				t.Errorf("event %q, want %q", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("no event, want %q", want)
		}
	}
	s.post(`{"message":"m"}`)
	expect("webhook_failing app")
	h.mu.Lock()
	h.status = http.StatusNoContent
	h.mu.Unlock()
	s.post(`{"message":"m"}`)
	expect("webhook_active app")
}
