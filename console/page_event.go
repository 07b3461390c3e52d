package console

import (
	"bytes"
	"cmp"
	"context"
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
	Body          piece  // indented
	Open          *openDelivery
	More          []choice // further deliveries
}

// mostTabs is how many deliveries have tabs; there is a list of the others.
const mostTabs = 12

// mostAttempts is how many attempts of a delivery a page lists: the newest, or those
// from the open one on.
const mostAttempts = 30

// openDelivery is the delivery that is open.
type openDelivery struct {
	deliveryRow
	URL      string // of the webhook; empty if it was deleted
	Due      time.Time
	Attempts []attemptRow
	Earlier  int // attempts before these
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
	Curl    piece
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
	RequestBody     piece
	Status          string // "204 No Content"; empty if there was no answer
	ResponseHeaders []queue.Header
	ResponseBody    piece
}

// exchangeOf returns what a page shows of an attempt. The whole request and answer are at
// an address; empty if they are not kept.
func exchangeOf(a queue.Attempt, target string, document []byte, at string) exchange {
	whole := func(name string) string {
		if at == "" {
			return ""
		}
		return at + name
	}
	x := exchange{
		Target:       target,
		RequestBody:  pieceOf(indented(sentBy(a, document)), mostBody, whole("request")),
		ResponseBody: pieceOf(indented(bytes.ToValidUTF8(a.ResponseBody, []byte("\uFFFD"))), mostBody, whole("answer")),
	}
	var cut bool
	x.RequestHeaders, cut = fewHeaders(a.RequestHeaders)
	x.RequestBody.Cut = x.RequestBody.Cut || cut
	x.ResponseHeaders, cut = fewHeaders(a.ResponseHeaders)
	x.ResponseBody.Cut = x.ResponseBody.Cut || cut
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
		Type:     e.Type, TraceID: api.TraceID(e.Trace.TraceID), Size: words.Size(int64(len(e.Body))), Body: pieceOf(indented(e.Body), mostBody, "events/"+id.String()+"/document"),
	}
	var d document
	if json.Unmarshal(e.Body, &d) == nil {
		page.Page = shorten(d.Data.Context.PageURL, 300)
		if m := d.Data.Message; m != "" {
			if page.Message, m = folded(m); m != "" {
				page.Message += "…"
			}
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
		for _, d := range page.Deliveries[n:] {
			page.More = append(page.More, choice{d.ID, d.Webhook + ": " + d.Mark.Text, d.ID == page.Open.ID})
		}
		page.Deliveries = page.Deliveries[:n]
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
	at := func(number int) string {
		return "deliveries/" + d.ID.String() + "/attempts/" + strconv.Itoa(number) + "/"
	}
	from := min(max(len(attempts)-mostAttempts, 0), chosen)
	open.Earlier = from
	for i, a := range attempts[from:min(from+mostAttempts, len(attempts))] {
		i += from
		open.Attempts = append(open.Attempts, attemptRow{a.Number, a.At, attemptMark(a), words.Span(a.Duration), i == chosen})
	}
	a := attempts[chosen]
	sent := api.HeaderFields(a.RequestHeaders)
	open.Attempt = &openAttempt{
		exchange: exchangeOf(a, open.URL, e.Body, at(a.Number)), Number: a.Number, At: a.At, Mark: attemptMark(a), Took: words.Span(a.Duration),
		Error: a.Error, Hint: words.HintFor(a.ErrorClass), TraceID: api.TraceID(a.TraceID), Next: a.Next,
		Signed: sent["X-UserHero-Signature"] != "",
		Keyed:  strings.Contains(sent["webhook-signature"], "v1a,"),
	}
	if a.ErrorClass != deliver.ClassBody {
		open.Attempt.Curl = pieceOf(curlOf(open.URL, a.RequestHeaders, sentBy(a, e.Body)), mostBody, at(a.Number)+"curl")
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
	number := field(r, "attempt")
	e, a, err := p.attempt(r.Context(), id, number)
	if err != nil {
		return nil, err
	}
	public, key := field(r, "public_key"), "secret"
	if public != "" {
		key = "public key"
	}
	v := verdict{signature.Explain(signedOf(a.RequestHeaders, sentBy(a, e.Body), r.PostFormValue("secret"), public), event.Canonical), key}
	to := "events/" + e.ID.String() + "?delivery=" + id.String() + "&attempt=" + number + "#verdict"
	return done{to, outcome{Of: &v}}, nil
}

// attempt returns an attempt of a delivery by its number, and the event.
func (p pages) attempt(ctx context.Context, id queue.DeliveryID, number string) (e queue.Event, a queue.Attempt, err error) {
	if e, err = p.queue.Event(ctx, id.Event); err != nil {
		return e, a, err
	}
	all, err := p.queue.Attempts(ctx, id)
	if err != nil {
		return e, a, err
	}
	for _, a := range all {
		if strconv.Itoa(a.Number) == number {
			return e, a, nil
		}
	}
	return e, a, noAttempt()
}

func noAttempt() error {
	return event.NewProblem(http.StatusNotFound, "There is no such attempt, or it has expired.")
}

// showDocument answers with the document of an event, byte for byte.
func (p pages) showDocument(r *http.Request) (any, error) {
	id, err := queue.ParseEventID(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	e, err := p.queue.Event(r.Context(), id)
	return plainText(e.Body), err
}

// showPart answers with the request or the answer of an attempt as HTTP has it, or with a
// command that sends the request again.
func (p pages) showPart(r *http.Request) (any, error) {
	id, err := queue.ParseDeliveryID(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	e, a, err := p.attempt(r.Context(), id, r.PathValue("number"))
	if err != nil {
		return nil, err
	}
	target := ""
	if w := webhookOf(p.webhooksByID(), id.Webhook); w != nil {
		target = redact.Marked(w.URL)
	}
	switch part := r.PathValue("part"); {
	case part == "request":
		return plainText(message("POST "+target, a.RequestHeaders, sentBy(a, e.Body))), nil
	case part == "answer" && a.Status != 0:
		return plainText(message(strings.TrimSpace(fmt.Sprint(a.Status, " ", http.StatusText(a.Status))), a.ResponseHeaders, a.ResponseBody)), nil
	case part == "curl":
		return plainText(curlOf(target, a.RequestHeaders, sentBy(a, e.Body))), nil
	}
	return nil, noAttempt()
}

// message writes a request or an answer as HTTP has it.
func message(line string, headers []queue.Header, body []byte) string {
	var b strings.Builder
	b.WriteString(line + "\n")
	for _, h := range headers {
		b.WriteString(h.Name + ": " + h.Value + "\n")
	}
	b.WriteString("\n")
	b.Write(body)
	return b.String()
}
