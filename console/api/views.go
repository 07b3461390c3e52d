package api

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/deliver"
	"github.com/userhero/relay/relay/redact"
)

func viewWebhook(w relay.WebhookStatus) Webhook {
	v := Webhook{
		Name:         w.Name,
		URL:          redact.Marked(w.URL),
		Projects:     w.Projects,
		Events:       w.Events,
		Filter:       w.Filter,
		Body:         w.Body,
		Notify:       w.Notify,
		Retry:        make([]string, len(w.Retry)),
		Timeout:      FormatDuration(w.Timeout),
		Concurrency:  w.Concurrency,
		Rate:         w.Rate.String(),
		Ordered:      w.Ordered,
		HeaderNames:  w.Headers,
		HasSecret:    w.HasSecret,
		PublicKeys:   w.PublicKeys,
		TLS:          viewTLS(w.TLS),
		Source:       w.Source,
		State:        w.State,
		Parked:       w.Parked,
		FailingSince: moment(w.FailingSince),
		Reason:       w.Reason,
		Difference:   w.Difference,
		LastSuccess:  moment(w.LastSuccess),
		LastAttempt:  moment(w.LastAttempt),
		HeldUntil:    moment(w.HeldUntil),
		Counts:       w.Counts,
	}
	if f := w.FilterErrors; f.Count > 0 {
		v.FilterErrors = &FilterErrors{Count: f.Count, Last: f.Last, At: moment(f.At)}
	}
	if len(v.Events) == 0 {
		v.Events = event.Types()
	}
	for i, rung := range w.Retry {
		v.Retry[i] = FormatDuration(rung)
	}
	return v
}

func viewPreviews(made []relay.Preview) (v Previews) {
	for _, p := range made {
		item := Preview{ContentType: p.MediaType, Body: string(p.Body)}
		if p.Err != nil {
			item = Preview{Error: p.Err.Error()}
		}
		if !p.Event.IsZero() {
			item.EventID = p.Event.String()
		}
		v.Items = append(v.Items, item)
	}
	return v
}

func viewTLS(s deliver.TLSStatus) *WebhookTLS {
	var v WebhookTLS
	if c := s.Certificate; !c.Expires.IsZero() {
		v.ClientCertificate = &Certificate{c.Subject, moment(c.Expires)}
	}
	for _, c := range s.CA {
		v.RootCA = append(v.RootCA, Certificate{c.Subject, moment(c.Expires)})
	}
	if v.ClientCertificate == nil && v.RootCA == nil {
		return nil
	}
	return &v
}

// mostExcerpt is how many characters of a message a list has.
const mostExcerpt = 160

// excerpt returns the beginning of the message in a document, on one line, and the rating.
func excerpt(body []byte) (message string, rating int) {
	var d struct {
		Data struct {
			Message string `json:"message"`
			Rating  int    `json:"rating"`
		} `json:"data"`
	}
	_ = json.Unmarshal(body, &d) // the relay stores no other documents
	message = strings.Join(strings.Fields(d.Data.Message), " ")
	if runes := []rune(message); len(runes) > mostExcerpt {
		message = string(runes[:mostExcerpt-1]) + "…"
	}
	return message, d.Data.Rating
}

func viewEvent(e queue.Event) Event {
	message, rating := excerpt(e.Body)
	return Event{
		Message:    message,
		Rating:     rating,
		ID:         e.ID.String(),
		Type:       e.Type,
		FeedbackID: e.Feedback.ID,
		ProjectID:  e.Feedback.Project,
		CreatedAt:  moment(e.Created),
		Size:       len(e.Body),
		Redacted:   e.Redacted,
		TraceID:    TraceID(e.Trace.TraceID),
	}
}

func viewAttempt(a queue.Attempt) Attempt {
	return Attempt{
		Number:          a.Number,
		At:              moment(a.At),
		DurationMS:      milliseconds(a.Duration),
		Status:          a.Status,
		Error:           a.Error,
		ErrorClass:      a.ErrorClass,
		RequestHeaders:  HeaderFields(a.RequestHeaders),
		RequestBody:     string(a.RequestBody),
		ResponseHeaders: HeaderFields(a.ResponseHeaders),
		ResponseBody:    strings.ToValidUTF8(string(a.ResponseBody), "\uFFFD"),
		TraceID:         TraceID(a.TraceID),
		NextAttemptAt:   moment(a.Next),
	}
}

// HeaderFields returns header fields by name. Several fields of one name are joined
// as in RFC 9110 §5.2.
func HeaderFields(headers []queue.Header) map[string]string {
	m := make(map[string]string, len(headers))
	for _, h := range headers {
		if before, ok := m[h.Name]; ok {
			m[h.Name] = before + ", " + h.Value
			continue
		}
		m[h.Name] = h.Value
	}
	return m
}

// DeletedName stands for the name of a webhook that has been deleted.
func DeletedName(id queue.WebhookID) string { return fmt.Sprintf("deleted-%d", id) }

// TraceID formats a trace id in hexadecimal; the zero id is empty.
func TraceID(id [16]byte) string {
	if id == ([16]byte{}) {
		return ""
	}
	return hex.EncodeToString(id[:])
}

// FormatDuration formats a duration as people write it: 5m, not 5m0s.
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// milliseconds is a duration in milliseconds, rounded to the microsecond.
func milliseconds(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
}

// moment is a time in UTC, cut to the millisecond; the zero time stays zero.
func moment(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.UTC().Truncate(time.Millisecond)
}
