package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/console/resend"
	"github.com/userhero/relay/console/scope"
	"github.com/userhero/relay/console/words"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/redact"
)

// back is the address that a form came from: the list, or the webhook's page.
func back(r *http.Request) string {
	if field(r, "from") == "list" {
		return "webhooks"
	}
	return webhookAt(r.PathValue("name"))
}

func (p pages) pauseWebhook(r *http.Request) (any, error) {
	name := r.PathValue("name")
	if err := p.relay.Disable(r.Context(), name, api.UserOf(r)); err != nil {
		return nil, err
	}
	w, err := p.webhookNamed(name)
	if err != nil {
		return nil, err
	}
	return said(back(r), words.Paused(w)), nil
}

func (p pages) enableWebhook(r *http.Request) (any, error) {
	name := r.PathValue("name")
	before, err := p.webhookNamed(name)
	if err != nil {
		return nil, err
	}
	if err := p.relay.Enable(r.Context(), name, api.UserOf(r)); err != nil {
		return nil, err
	}
	w, err := p.webhookNamed(name)
	if err != nil {
		return nil, err
	}
	missed, whole := int64(0), true
	if since := before.DisabledSince; !since.IsZero() {
		if missed, whole, err = p.counted(r, name, relay.Recovery{Missed: true, Since: since}); err != nil {
			return nil, err
		}
	}
	return said(back(r), words.Resumed(before, w, missed, whole, webhookAt(name)+"/recover")), nil
}

// countTime bounds a count of what could be sent again.
const countTime = 80 * time.Millisecond

// counted counts what a recovery would send again. whole is false if there is too much to count.
func (p pages) counted(r *http.Request, name string, what relay.Recovery) (count int64, whole bool, err error) {
	ctx, cancel := context.WithTimeout(r.Context(), countTime)
	defer cancel()
	what.DryRun = true
	count, err = p.relay.Recover(ctx, name, what, api.UserOf(r))
	if errors.Is(err, context.DeadlineExceeded) {
		return count, false, nil
	}
	return count, err == nil, err
}

// testOutcome is the result of a test send, as a page shows it.
type testOutcome struct {
	OK             bool
	Sentence, Sent string
	Hint           string
	exchange
}

func outcomeOf(result relay.TestResult, target string) *testOutcome {
	a := result.Attempt
	return &testOutcome{
		OK: result.OK, Sentence: words.Tested(a, result.OK), Sent: words.Sent(a), Hint: words.HintFor(a.ErrorClass),
		exchange: exchangeOf(a, target, []byte(relay.Sample), ""),
	}
}

func (p pages) testWebhook(r *http.Request) (any, error) {
	name := r.PathValue("name")
	w, err := p.webhookNamed(name)
	if err != nil {
		return nil, err
	}
	result, err := p.relay.Test(r.Context(), name)
	if err != nil {
		return nil, err
	}
	return done{webhookAt(name) + "#outcome", outcome{Of: outcomeOf(result, redact.Marked(w.URL))}}, nil
}

// secretShown is a new secret, which is shown only once, with code that verifies signatures.
type secretShown struct {
	Secret   string
	Title    string
	Snippets []snippet
}

// rotating returns the webhook whose secret or key a form changes, and how long the old one
// signs.
func (p pages) rotating(r *http.Request) (before relay.WebhookStatus, overlap time.Duration, err error) {
	if overlap, err = api.OverlapOf(field(r, "overlap")); err != nil {
		return before, 0, err
	}
	before, err = p.webhookNamed(r.PathValue("name"))
	return before, overlap, err
}

func (p pages) rotateSecret(r *http.Request) (any, error) {
	name, own := r.PathValue("name"), field(r, "secret")
	before, overlap, err := p.rotating(r)
	if err != nil {
		return nil, err
	}
	secret, err := p.relay.Rotate(r.Context(), name, own, overlap, api.UserOf(r))
	if err != nil {
		return nil, err
	}
	out := outcome{Flash: words.Rotated(before, overlap), Once: true}
	if own == "" {
		out.Of = &secretShown{secret, "The new secret, shown only once", snippets()}
		out.Lost = "The new secret was shown here once and cannot be shown again. If you did not copy it, change the secret again."
	}
	return done{webhookAt(name) + tabSettings, out}, nil
}

// rotateSigningKey sets, changes or removes the key of asymmetric signatures.
func (p pages) rotateSigningKey(r *http.Request) (any, error) {
	name, own := r.PathValue("name"), field(r, "signing_key")
	to := webhookAt(name) + tabSettings + "#signing-key"
	if field(r, "go") == "remove" {
		none := ""
		err := p.relay.Change(r.Context(), name, api.WebhookSettings{SigningKey: &none}.Apply, api.UserOf(r))
		return said(to, words.KeyRemoved()), err
	}
	before, overlap, err := p.rotating(r)
	if err != nil {
		return nil, err
	}
	if err := p.relay.RotateSigningKey(r.Context(), name, own, overlap, api.UserOf(r)); err != nil {
		return nil, err
	}
	return said(to, words.KeyRotated(before, overlap)), nil
}

// spans are what a recovery can send again.
func spans(chosen string) []choice {
	list := []choice{
		{Value: "failed", Name: "everything that failed"},
		{Value: "waiting", Name: "everything that waits for a retry"},
		{Value: "1h", Name: "failed or missed in the last hour"},
		{Value: "6h", Name: "failed or missed in the last 6 hours"},
		{Value: "24h", Name: "failed or missed in the last 24 hours"},
		{Value: "7d", Name: "failed or missed in the last 7 days"},
		{Value: "30d", Name: "failed or missed in the last 30 days"},
	}
	for i := range list {
		list[i].Chosen = list[i].Value == chosen
	}
	return list
}

// recoverPage asks before deliveries are sent again.
type recoverPage struct {
	Name, Span, Sentence, Then string
	Count                      int64
	More                       bool // there are more than Count
	Spans                      []choice
}

// recoveryOf reads from a form which deliveries to send again.
func recoveryOf(text string, now time.Time) (relay.Recovery, error) {
	switch text {
	case "failed", "":
		return relay.Recovery{Failed: true}, nil
	case api.StateWaiting:
		return relay.Recovery{Waiting: true}, nil
	}
	if since, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return relay.Recovery{Missed: true, Since: since}, nil
	}
	back, err := relay.ParseDuration(text)
	if err != nil || back <= 0 {
		return relay.Recovery{}, api.Unprocessable("/span", fmt.Errorf("%q is not a duration such as 24h", text))
	}
	return relay.Recovery{Failed: true, Missed: true, Since: now.Add(-back)}, nil
}

func (p pages) askRecover(r *http.Request) (any, error) {
	if p.relay.ReadOnly() {
		return nil, scope.ErrReadOnly
	}
	name, text := r.PathValue("name"), r.URL.Query().Get("span")
	what, err := recoveryOf(text, time.Now())
	if err != nil {
		return nil, err
	}
	w, err := p.webhookNamed(name)
	if err != nil {
		return nil, err
	}
	choices := spans(text)
	if what.Missed && !what.Failed {
		choices = append(choices, choice{text, "missed since " + words.WhenOf(what.Since, time.Now()).Absolute, true})
	}
	page := recoverPage{Name: name, Span: text, Spans: choices, Then: "They are sent oldest first, one at first, and faster as the receiver answers. You see the progress, and can stop it."}
	if w.Parked || w.State == relay.Disabled {
		page.Then = "None is sent until " + name + " is active again. You see the progress, and can stop it."
	}
	var whole bool
	if page.Count, whole, err = p.counted(r, name, what); err != nil {
		return nil, err
	}
	deliveries := words.Counted(page.Count, "delivery", "deliveries")
	switch {
	case !whole:
		page.Sentence, page.More = "More than "+deliveries+" would be sent again.", true
	case page.Count > 0:
		page.Sentence = deliveries + " would be sent again."
	default:
		page.Sentence = "Nothing would be sent again."
	}
	return shown{name: "recover.html", screen: screen{Title: "Recover " + name, Area: "webhooks", Page: page}}, nil
}

// recoverWebhook begins to send what a webhook did not get.
func (p pages) recoverWebhook(r *http.Request) (any, error) {
	name, text := r.PathValue("name"), field(r, "span")
	what, err := recoveryOf(text, time.Now())
	if err != nil {
		return nil, err
	}
	if _, err := p.webhookNamed(name); err != nil {
		return nil, err
	}
	said := "missed since " + words.WhenOf(what.Since, time.Now()).Absolute
	for _, c := range spans(cmp.Or(text, "failed")) {
		if c.Chosen {
			said = c.Name
		}
	}
	return p.begin(r, resend.Task{
		What: said, Webhook: name, Again: webhookAt(name) + "/recover?" + url.Values{"span": {text}}.Encode(),
		Find: func(ctx context.Context, found func(int64), send func([]queue.DeliveryID) error) error {
			return p.relay.Recoverable(ctx, name, what, found, send)
		},
	})
}

// deletePage asks before a webhook is deleted.
type deletePage struct {
	Name, URL string
	Waiting   int64
}

func (p pages) askDelete(r *http.Request) (any, error) {
	if p.relay.ReadOnly() {
		return nil, scope.ErrReadOnly
	}
	w, err := p.webhookNamed(r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	return shown{name: "delete.html", screen: screen{Title: "Delete " + w.Name, Area: "webhooks", Page: deletePage{
		Name: w.Name, URL: redact.Marked(w.URL), Waiting: w.Counts.Waiting(),
	}}}, nil
}

func (p pages) deleteWebhook(r *http.Request) (any, error) {
	name := r.PathValue("name")
	cancelled, err := p.relay.Delete(r.Context(), name, api.UserOf(r))
	if err != nil {
		return nil, err
	}
	return said("webhooks", words.Deleted(name, cancelled)), nil
}

// redeliver sends one delivery again and leads back to the page of the form.
func (p pages) redeliver(r *http.Request) (any, error) {
	id, err := queue.ParseDeliveryID(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	to := "events/" + id.Event.String() + "?delivery=" + id.String()
	if name := field(r, "webhook"); name != "" {
		to = webhookAt(name)
	}
	if feedback := field(r, "feedback"); feedback != "" {
		to = feedbackAt(queue.FeedbackID{Project: field(r, "project"), ID: feedback})
	}
	err = p.relay.Redeliver(r.Context(), id, api.UserOf(r))
	switch {
	case errors.Is(err, queue.ErrConflict):
		return said(to, words.Busy()), nil
	case err != nil:
		return nil, err
	}
	return said(to, words.Redelivered(webhookOf(p.webhooksByID(), id.Webhook))), nil
}
