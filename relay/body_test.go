package relay

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
	"github.com/userhero/relay/relay/deliver"
	"github.com/userhero/relay/relay/signature"
)

// TestWebhookGetsItsOwnBody: what a body makes is sent, signed and kept in the log of
// attempts, the same at each attempt, and a test send shows it too.
func TestWebhookGetsItsOwnBody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var works atomic.Bool
		rs := &receivers{answer: func(request) (int, http.Header) {
			if !works.Load() {
				return 500, nil
			}
			return 200, nil
		}}
		const secret = "s3cret"
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{
			ConsoleURL: "https://feedback.example.com/relay/", Retry: []time.Duration{time.Minute, time.Minute},
			Webhooks: []WebhookConfig{
				{Name: "json", URL: "https://json.example/", Secret: secret, Body: `{"who": webhook.name, "at": timestamp, "data": data}`},
				{Name: "text", URL: "https://text.example/", Secret: secret, Body: `"rated " + string(data.rating)`},
				{Name: "slack", URL: "https://slack.example/", Secret: secret, Body: "slack"},
				{Name: "plain", URL: "https://plain.example/", Secret: secret},
			},
		})
		defer stop()
		receipt, err := r.Accept(t.Context(), queue.Entry{Type: string(event.Created), Feedback: queue.FeedbackID{ID: "fb"}, Body: []byte(Sample)})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		time.Sleep(time.Minute + time.Second)
		works.Store(true)
		time.Sleep(time.Minute + 10*time.Second)
		synctest.Wait()
		data := Sample[strings.Index(Sample, `"data":`)+7 : len(Sample)-1]
		wants := map[string]func(body string) bool{
			"json.example": func(body string) bool {
				return body == `{"who":"json","at":"2026-01-07T15:30:00Z","data":`+data+`}`
			},
			"text.example": func(body string) bool { return body == "rated 2" },
			"slack.example": func(body string) bool {
				return strings.Contains(body, `"blocks":`) && strings.Contains(body, "https://feedback.example.com/relay/events/"+receipt.Event.ID.String())
			},
			"plain.example": func(body string) bool { return body == Sample },
		}
		bodies := map[string][]string{}
		for _, seen := range rs.all() {
			bodies[seen.host] = append(bodies[seen.host], seen.body)
			if err := signature.Verify(secret, canonicalHeader(seen.header), []byte(seen.body)); err != nil {
				t.Errorf("%s: %v", seen.host, err)
			}
			want := "application/json"
			if seen.host == "text.example" {
				want = "text/plain; charset=utf-8"
			}
			if got := seen.header.Get("Content-Type"); got != want {
				t.Errorf("%s gets %s", seen.host, got)
			}
		}
		for host, right := range wants {
			if got := bodies[host]; len(got) != 3 || !right(got[0]) || got[1] != got[0] || got[2] != got[0] {
				t.Errorf("%s got %q", host, got)
			}
			w, _ := r.Webhook(strings.TrimSuffix(host, ".example"))
			attempts, err := r.Queue().Attempts(t.Context(), queue.DeliveryID{Event: receipt.Event.ID, Webhook: w.ID})
			if err != nil || len(attempts) != 3 {
				t.Fatalf("%s has %d attempts, %v", host, len(attempts), err)
			}
			sent := []byte(bodies[host][0])
			if host == "plain.example" {
				sent = nil // the event's document
			}
			for _, a := range attempts {
				if !bytes.Equal(a.RequestBody, sent) {
					t.Errorf("the log of %s says that %q was sent", host, a.RequestBody)
				}
			}
		}
		result, err := r.Test(t.Context(), "text")
		if err != nil || !result.OK || string(result.Attempt.RequestBody) != "rated 2" {
			t.Errorf("a test send sent %q, %v", result.Attempt.RequestBody, err)
		}
	})
}

// TestBodyThatCannotBeMadeFailsItsAttempt: an event that an expression cannot handle
// fails for that webhook alone, is retried, and goes out when the expression is mended.
func TestBodyThatCannotBeMadeFailsItsAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: always(200)}
		with := func(body string) Config {
			return Config{Webhooks: []WebhookConfig{
				{Name: "own", URL: "https://own.example/", Body: body},
				{Name: "plain", URL: "https://plain.example/"},
			}}
		}
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, with(`{"text": "page " + data.context.pageUrl}`))
		defer stop()
		receipt, err := r.Accept(t.Context(), queue.Entry{
			Type: string(event.Created), Feedback: queue.FeedbackID{ID: "fb"}, Body: []byte(`{"event":"feedback.created","data":{"message":"x"}}`),
		})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if seen := rs.all(); len(seen) != 1 || seen[0].host != "plain.example" {
			t.Fatalf("requests came: %v", seen)
		}
		w, _ := r.Webhook("own")
		id := queue.DeliveryID{Event: receipt.Event.ID, Webhook: w.ID}
		attempts, err := r.Queue().Attempts(t.Context(), id)
		if err != nil || len(attempts) != 1 || attempts[0].ErrorClass != deliver.ClassBody || !strings.Contains(attempts[0].Error, "no such overload") ||
			attempts[0].TraceID == [16]byte{} || attempts[0].Status != 0 {
			t.Fatalf("attempts: %+v, %v", attempts, err)
		}
		if d, _ := r.Queue().Delivery(t.Context(), id); d.State != queue.Retrying {
			t.Errorf("the delivery is %s", d.State)
		}
		if _, err := r.Attach(with(`{"text": "page " + (has(data.context.pageUrl) ? data.context.pageUrl : "unknown")}`)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		seen := rs.all()
		if i := slices.IndexFunc(seen, func(s request) bool { return s.host == "own.example" }); i < 0 || seen[i].body != `{"text":"page unknown"}` {
			t.Errorf("requests came: %v", seen)
		}
	})
}

func TestWrongBodiesAreRefused(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"text": foo}`:   "body: 1:10: undeclared reference to 'foo'",
		`data.rating > 2`: "body: 1:13: gives a bool",
		`msteams`:         "besides an expression it can be discord, slack, teams",
	} {
		err := WebhookConfig{Name: "w", URL: "https://w.example/", Body: body}.Validate()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want an error with %q, got %v", body, want, err)
		}
	}
}

// canonicalHeader spells the names of a header as net/http does on the way in.
func canonicalHeader(h http.Header) http.Header {
	c := make(http.Header)
	for name, values := range h {
		for _, v := range values {
			c.Add(name, v)
		}
	}
	return c
}

// TestAsymmetricSignaturesStandBesideTheSecrets: both keys sign while they are rotated,
// with a secret and without, and the public keys verify.
func TestAsymmetricSignaturesStandBesideTheSecrets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: always(200)}
		present, previous := signature.NewKey(), signature.NewKey()
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{Webhooks: []WebhookConfig{
			{Name: "both", URL: "https://both.example/", Secret: "s3cret", PreviousSecret: "old", SigningKey: present.String(), PreviousSigningKey: previous.String()},
			{Name: "keyed", URL: "https://keyed.example/", SigningKey: present.String(), Body: "slack"},
			{Name: "plain", URL: "https://plain.example/", Secret: "s3cret"},
		}})
		defer stop()
		accept(t, r, "fb_1")
		synctest.Wait()
		for _, seen := range rs.all() {
			header := canonicalHeader(seen.header)
			versions := ""
			for _, one := range strings.Fields(header.Get("webhook-signature")) {
				version, _, _ := strings.Cut(one, ",")
				versions += version + " "
			}
			want := map[string]string{"both.example": "v1 v1 v1a v1a ", "keyed.example": "v1a ", "plain.example": "v1 "}[seen.host]
			if versions != want {
				t.Errorf("%s gets signatures %s, want %s", seen.host, versions, want)
			}
			w, _ := r.Webhook(strings.TrimSuffix(seen.host, ".example"))
			for _, key := range w.PublicKeys {
				if err := signature.VerifyPublic(key.X, header, []byte(seen.body)); err != nil {
					t.Errorf("%s: %v", seen.host, err)
				}
			}
			if n := strings.Count(want, "v1a"); len(w.PublicKeys) != n {
				t.Errorf("%s has %d public keys, want %d", seen.host, len(w.PublicKeys), n)
			}
			err := signature.Verify("s3cret", header, []byte(seen.body))
			if (err == nil) != (seen.host != "keyed.example") {
				t.Errorf("%s: the secret says %v", seen.host, err)
			}
		}
	})
}
