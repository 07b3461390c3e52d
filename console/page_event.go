package console

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/console/words"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/deliver"
	"github.com/userhero/relay/relay/redact"
	"github.com/userhero/relay/relay/signature"
)

// eventPage is one event, with one delivery and one of its attempts open.
type eventPage struct {
	eventRow
	Type, TraceID string
	Size          string
	Page          string // that the visitor was on
	Body          string // indented
	Open          *openDelivery
	More          []deliveryRow // deliveries that are folded away
}

// mostTabs is how many deliveries have tabs; more are folded away.
const mostTabs = 12

// openDelivery is the delivery that is open.
type openDelivery struct {
	deliveryRow
	URL      string // of the webhook; empty if it was deleted
	Due      time.Time
	Attempts []attemptRow
	Attempt  *openAttempt
}

// attemptRow is an attempt in the list of a delivery.
type attemptRow struct {
	Number int
	At     time.Time
	Mark   words.Mark
	Took   string
	Open   bool
}

// openAttempt is the attempt that is open.
type openAttempt struct {
	exchange
	Number  int
	At      time.Time
	Mark    words.Mark
	Took    string
	Error   string
	Hint    string
	TraceID string
	Next    time.Time
	Curl    string
	// Signed and Keyed report whether the request has signatures of a secret and of a
	// signing key.
	Signed, Keyed bool
	Verdict       *verdict
}

// verdict is whether a signature was made with a key: "secret" or "public key".
type verdict struct {
	signature.Verdict
	Key string
}

// exchange is a request and its answer.
type exchange struct {
	Target          string
	RequestHeaders  []queue.Header
	RequestBody     string
	Status          string // "204 No Content"; empty if there was no answer
	ResponseHeaders []queue.Header
	ResponseBody    string
}

func exchangeOf(a queue.Attempt, target string, document []byte) exchange {
	x := exchange{
		Target: target, RequestHeaders: a.RequestHeaders, RequestBody: indented(sentBy(a, document)),
		ResponseHeaders: a.ResponseHeaders,
		ResponseBody:    indented(bytes.ToValidUTF8(a.ResponseBody, []byte("\uFFFD"))),
	}
	if a.Status != 0 {
		x.Status = strings.TrimSpace(fmt.Sprintf("%d %s", a.Status, http.StatusText(a.Status)))
	}
	return x
}

// sentBy returns the body that an attempt sent: the event's document, unless the webhook
// had a body of its own. It is empty if that could not be made.
func sentBy(a queue.Attempt, document []byte) []byte {
	if a.RequestBody != nil || a.ErrorClass == deliver.ClassBody {
		return a.RequestBody
	}
	return document
}

// indented formats JSON for people; other text stays as it is.
func indented(body []byte) string {
	var b bytes.Buffer
	if json.Indent(&b, body, "", "  ") != nil {
		return string(body)
	}
	return b.String()
}

func attemptMark(a queue.Attempt) words.Mark {
	switch {
	case a.ErrorClass == "" && a.Error == "":
		return words.Mark{Kind: "good", Text: strings.TrimSpace(fmt.Sprintf("%d %s", a.Status, http.StatusText(a.Status)))}
	case a.Status != 0:
		return words.Mark{Kind: "bad", Text: strings.TrimSpace(fmt.Sprintf("%d %s", a.Status, http.StatusText(a.Status)))}
	}
	return words.Mark{Kind: "bad", Text: a.Error}
}

// showEvent is the page of one event. The address says which delivery and attempt are
// open; the default is the last.
func (p pages) showEvent(r *http.Request) (any, error) {
	v, out := r.URL.Query(), p.outcome(r)
	id, err := queue.ParseEventID(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	e, err := p.queue.Event(r.Context(), id)
	if err != nil {
		return nil, err
	}
	deliveries, err := p.queue.EventDeliveries(r.Context(), id)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	byID := p.webhooksByID()
	page := eventPage{
		eventRow: p.eventRow(r, e, deliveries, byID, now),
		Type:     e.Type, TraceID: api.TraceID(e.Trace.TraceID), Size: words.Size(int64(len(e.Body))), Body: indented(e.Body),
	}
	var d document
	if json.Unmarshal(e.Body, &d) == nil {
		page.Page = d.Data.Context.PageURL
		if d.Data.Message != "" {
			page.Message = d.Data.Message // whole
		}
	}
	if len(deliveries) > 0 {
		wanted := cmp.Or(v.Get("delivery"), page.Deliveries[0].ID)
		i := max(slices.IndexFunc(deliveries, func(d queue.Delivery) bool { return d.ID.String() == wanted }), 0)
		open := deliveries[i]
		if page.Open, err = p.openDelivery(r, e, open, webhookOf(byID, open.ID.Webhook), v.Get("attempt"), now); err != nil {
			return nil, err
		}
		if v, ok := out.Of.(*verdict); ok && page.Open.Attempt != nil {
			page.Open.Attempt.Verdict = v
		}
	}
	if n := mostTabs; len(page.Deliveries) > n {
		page.Deliveries, page.More = page.Deliveries[:n], page.Deliveries[n:]
	}
	title := "Created: "
	switch {
	case event.Type(e.Type).Operational():
		title = ""
	case e.Type == string(event.Updated):
		title = "Updated: "
	}
	s := screen{Title: title + cmp.Or(shorten(page.Message, 60), e.Feedback.ID), Area: "events", Page: page, Flash: out.Flash, Live: []string{"attempt", "state"}}
	query := url.Values{}
	for _, name := range []string{"delivery", "attempt", tokenName} {
		if value := v.Get(name); value != "" && !(name == tokenName && out.Once) {
			query.Set(name, value)
		}
	}
	s.Again = "events/" + id.String() + "?" + query.Encode()
	return shown{name: "event.html", status: out.Status, screen: s}, nil
}

func (p pages) openDelivery(r *http.Request, e queue.Event, d queue.Delivery, w *relay.WebhookStatus, number string, now time.Time) (*openDelivery, error) {
	open := &openDelivery{deliveryRow: p.deliveryRow(r, d, w, now)}
	if w != nil {
		open.URL = redact.Marked(w.URL)
	}
	if d.State.Waiting() && d.Due.After(now) {
		open.Due = d.Due
	}
	attempts, err := p.queue.Attempts(r.Context(), d.ID)
	if err != nil {
		return nil, fmt.Errorf("reading the attempts of %s: %w", d.ID, err)
	}
	if len(attempts) == 0 {
		return open, nil
	}
	chosen := len(attempts) - 1
	for i, a := range attempts {
		if strconv.Itoa(a.Number) == number {
			chosen = i
		}
	}
	for i, a := range attempts {
		open.Attempts = append(open.Attempts, attemptRow{a.Number, a.At, attemptMark(a), words.Span(a.Duration), i == chosen})
	}
	a := attempts[chosen]
	sent := api.HeaderFields(a.RequestHeaders)
	open.Attempt = &openAttempt{
		exchange: exchangeOf(a, open.URL, e.Body), Number: a.Number, At: a.At, Mark: attemptMark(a), Took: words.Span(a.Duration),
		Error: a.Error, Hint: words.HintFor(a.ErrorClass), TraceID: api.TraceID(a.TraceID), Next: a.Next,
		Signed: sent["X-UserHero-Signature"] != "",
		Keyed:  strings.Contains(sent["webhook-signature"], "v1a,"),
	}
	if a.ErrorClass != deliver.ClassBody {
		open.Attempt.Curl = curlOf(open.URL, a.RequestHeaders, sentBy(a, e.Body))
	}
	return open, nil
}

// curlOf returns a command that sends the same request.
func curlOf(target string, headers []queue.Header, body []byte) string {
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
	var b strings.Builder
	b.WriteString("curl -X POST " + quote(target))
	for _, h := range headers {
		b.WriteString(" \\\n  -H " + quote(h.Name+": "+h.Value))
	}
	b.WriteString(" \\\n  --data-raw " + quote(string(body)))
	return b.String()
}

// signedOf is a request as its receiver had it, to be verified with a secret or, if it is
// not empty, with a public key.
func signedOf(headers []queue.Header, body []byte, secret, public string) signature.Request {
	f := api.HeaderFields(headers)
	s := signature.Request{Secret: secret, PublicKey: public, Signature: f["X-UserHero-Signature"], ID: f["webhook-id"], Timestamp: f["webhook-timestamp"], Body: body}
	if public != "" {
		s.Signature = f["webhook-signature"]
	}
	return s
}

// checkSignature checks whether an attempt was signed with a secret, or with the private
// key of a public one. The secret is not kept.
func (p pages) checkSignature(r *http.Request) (any, error) {
	id, err := queue.ParseDeliveryID(field(r, "delivery"))
	if err != nil {
		return nil, err
	}
	e, err := p.queue.Event(r.Context(), id.Event)
	if err != nil {
		return nil, err
	}
	attempts, err := p.queue.Attempts(r.Context(), id)
	if err != nil {
		return nil, err
	}
	number := field(r, "attempt")
	for _, a := range attempts {
		if strconv.Itoa(a.Number) == number {
			public, key := field(r, "public_key"), "secret"
			if public != "" {
				key = "public key"
			}
			v := verdict{signature.Explain(signedOf(a.RequestHeaders, sentBy(a, e.Body), r.PostFormValue("secret"), public), event.Canonical), key}
			to := "events/" + e.ID.String() + "?delivery=" + id.String() + "&attempt=" + number + "#verdict"
			return done{to, outcome{Of: &v}}, nil
		}
	}
	return nil, event.NewProblem(http.StatusNotFound, "There is no such attempt, or it has expired.")
}
