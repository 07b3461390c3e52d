package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/deliver"
	"github.com/userhero/relay/relay/signature"
)

// MaxRequest bounds the body of a request.
const MaxRequest = 64 << 10

// WebhookSettings is a webhook as it is added or changed. What is absent keeps its
// value, or its default where the webhook is new.
type WebhookSettings struct {
	Name           *string            `json:"name"`
	URL            *string            `json:"url"`
	Secret         *string            `json:"secret"`
	GenerateSecret bool               `json:"generate_secret"`
	Events         *[]event.Type      `json:"events"`
	Filter         *string            `json:"filter"`
	Headers        *map[string]string `json:"headers"`
	TLS            *TLSSettings       `json:"tls"`
	Retry          *[]string          `json:"retry"`
	Timeout        *string            `json:"timeout"`
	Concurrency    *int               `json:"concurrency"`
	Rate           *string            `json:"rate"`
	Ordered        *bool              `json:"ordered"`
}

// TLSSettings are a webhook's TLS settings, in PEM; they are replaced as a whole.
type TLSSettings struct {
	ClientCertificate    string `json:"client_certificate"`
	ClientCertificateKey string `json:"client_certificate_key"`
	RootCA               string `json:"root_ca"`
}

// Apply puts what is given into the settings. Its error joins a problem for each
// member that cannot be read.
func (in WebhookSettings) Apply(c *relay.WebhookConfig) error {
	var errs []error
	wrong := func(pointer string, err error) { errs = append(errs, Unprocessable(pointer, err)) }
	set(&c.Name, in.Name)
	if in.URL != nil {
		whole, err := UnmaskURL(*in.URL, c.URL)
		if err != nil {
			wrong("/url", err)
		}
		c.URL = whole
	}
	set(&c.Secret, in.Secret)
	set(&c.Events, in.Events)
	set(&c.Filter, in.Filter)
	set(&c.Concurrency, in.Concurrency)
	set(&c.Ordered, in.Ordered)
	if in.Headers != nil {
		c.Header = make(http.Header, len(*in.Headers))
		for name, value := range *in.Headers {
			if value == deliver.RedactedValue {
				wrong("/headers", fmt.Errorf("%s has %s, which stands for a hidden value; write the value itself", name, value))
			}
			c.Header[name] = []string{value} // goes out spelled as it is
		}
	}
	if in.TLS != nil {
		c.TLS = deliver.TLS{Certificate: in.TLS.ClientCertificate, Key: in.TLS.ClientCertificateKey, CA: in.TLS.RootCA}
	}
	if in.Retry != nil {
		c.Retry = make([]time.Duration, 0, len(*in.Retry))
		for _, s := range *in.Retry {
			d, err := relay.ParseDuration(s)
			if err != nil {
				wrong("/retry", err)
			}
			c.Retry = append(c.Retry, d)
		}
	}
	if in.Timeout != nil {
		d, err := relay.ParseDuration(*in.Timeout)
		if err != nil {
			wrong("/timeout", err)
		}
		c.Timeout = d
	}
	if in.Rate != nil {
		c.Rate = relay.Rate{}
		if *in.Rate != "" {
			rate, err := relay.ParseRate(*in.Rate)
			if err != nil {
				wrong("/rate", err)
			}
			c.Rate = rate
		}
	}
	return errors.Join(errs...)
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

// Unprocessable is the problem that the setting at a pointer is not valid.
func Unprocessable(pointer string, err error) error {
	return event.NewProblem(http.StatusUnprocessableEntity, "The settings are not valid.", event.FieldError{Pointer: pointer, Detail: err.Error()})
}

// decode reads a request's JSON into v; an empty body leaves v as it is. A
// member that is not known is an error: a typing mistake would else be a setting
// that is silently not made.
func decode(r *http.Request, v any) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, MaxRequest+1))
	if err != nil {
		return event.NewProblem(http.StatusBadRequest, "The body could not be read.")
	}
	if len(body) > MaxRequest {
		return event.NewProblem(http.StatusRequestEntityTooLarge, fmt.Sprintf("The body has more than %d bytes.", MaxRequest))
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	if t := r.Header.Get("Content-Type"); t != "" && !isJSON(t) {
		return event.NewProblem(http.StatusUnsupportedMediaType, fmt.Sprintf("The body is %s; send application/json.", t))
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	err = d.Decode(v)
	if err == nil && d.More() {
		err = errors.New("something follows the JSON value")
	}
	var wrongType *json.UnmarshalTypeError
	if errors.As(err, &wrongType) {
		return Unprocessable("/"+wrongType.Field, fmt.Errorf("is %s; it must be %s", wrongType.Value, wrongType.Type))
	}
	if err != nil {
		return event.NewProblem(http.StatusBadRequest, "The body is not the JSON that is expected: "+err.Error())
	}
	return nil
}

// isJSON tells whether a media type is JSON (RFC 6839, §3.1).
func isJSON(contentType string) bool {
	t, _, err := mime.ParseMediaType(contentType)
	return err == nil && (t == "application/json" || strings.HasSuffix(t, "+json"))
}

// WebhookWithSecret is a webhook with the secret that was made for it, which is shown
// this once.
type WebhookWithSecret struct {
	Webhook
	Secret string `json:"secret,omitempty"`
}

func (s *server) addWebhook(r *http.Request) (any, error) {
	var in WebhookSettings
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	var c relay.WebhookConfig
	if err := in.Apply(&c); err != nil {
		return nil, err
	}
	made := ""
	if c.Secret == "" && in.GenerateSecret {
		made = signature.NewSecret()
		c.Secret = made
	}
	if err := s.relay.Add(r.Context(), c, UserOf(r)); err != nil {
		return nil, err
	}
	v, err := s.named(c.Name)
	if err != nil {
		return nil, err
	}
	return created{WebhookWithSecret{v, made}}, nil
}

func (s *server) changeWebhook(r *http.Request) (any, error) {
	var in WebhookSettings
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	name := r.PathValue("name")
	if in.Name != nil && *in.Name != name {
		return nil, Unprocessable("/name", errors.New("a webhook keeps its name"))
	}
	if in.Secret != nil || in.GenerateSecret {
		return nil, Unprocessable("/secret", errors.New("is changed by POST …/rotate, so that receivers can follow"))
	}
	if err := s.relay.Change(r.Context(), name, in.Apply, UserOf(r)); err != nil {
		return nil, err
	}
	return s.named(name)
}

// named is one webhook as it is now.
func (s *server) named(name string) (Webhook, error) {
	w, ok := s.relay.Webhook(name)
	if !ok {
		return Webhook{}, event.NewProblem(http.StatusNotFound, fmt.Sprintf("There is no webhook named %q.", name))
	}
	return viewWebhook(w), nil
}

func (s *server) deleteWebhook(r *http.Request) (any, error) {
	name := r.PathValue("name")
	ended, err := s.relay.Delete(r.Context(), name, UserOf(r))
	if err != nil {
		return nil, err
	}
	return struct {
		Deleted string `json:"deleted"`
		Ended   int64  `json:"deliveries_ended"`
	}{name, ended}, nil
}

func (s *server) enableWebhook(r *http.Request) (any, error) {
	name := r.PathValue("name")
	if err := s.relay.Enable(r.Context(), name, UserOf(r)); err != nil {
		return nil, err
	}
	return s.named(name)
}

func (s *server) disableWebhook(r *http.Request) (any, error) {
	name := r.PathValue("name")
	if err := s.relay.Disable(r.Context(), name, UserOf(r)); err != nil {
		return nil, err
	}
	return s.named(name)
}

// TestResult is what came of a test send.
type TestResult struct {
	OK              bool              `json:"ok"`
	Status          int               `json:"status"` // 0 where no answer came
	DurationMS      float64           `json:"duration_ms"`
	Error           string            `json:"error,omitempty"`
	ErrorClass      string            `json:"error_class,omitempty"`
	ResponseBody    string            `json:"response_body"`
	ResponseHeaders map[string]string `json:"response_headers"`
	RequestHeaders  map[string]string `json:"request_headers"`
}

func (s *server) testWebhook(r *http.Request) (any, error) {
	result, err := s.relay.Test(r.Context(), r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	at := viewAttempt(result.Attempt)
	return TestResult{
		OK: result.OK, Status: at.Status, DurationMS: at.DurationMS, Error: at.Error, ErrorClass: at.ErrorClass,
		ResponseBody: at.ResponseBody, ResponseHeaders: at.ResponseHeaders, RequestHeaders: at.RequestHeaders,
	}, nil
}

// Rotation says with which secret to go on.
type Rotation struct {
	Secret  string `json:"secret"`
	Overlap string `json:"overlap"`
}

func (s *server) rotateSecret(r *http.Request) (any, error) {
	var in Rotation
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	var overlap time.Duration
	if in.Overlap != "" {
		var err error
		if overlap, err = relay.ParseDuration(in.Overlap); err != nil || overlap < 0 {
			return nil, Unprocessable("/overlap", errors.New("is no duration such as 24h"))
		}
	}
	name := r.PathValue("name")
	secret, err := s.relay.Rotate(r.Context(), name, in.Secret, overlap, UserOf(r))
	if err != nil {
		return nil, err
	}
	v, err := s.named(name)
	if err != nil {
		return nil, err
	}
	if in.Secret != "" {
		secret = "" // its owner knows it
	}
	return WebhookWithSecret{v, secret}, nil
}

// Recovery says what to deliver: what failed, what was missed, or what waits on
// a rung. Without a state it is what failed, and with a time also what was missed
// since.
type Recovery struct {
	State  string    `json:"state,omitempty"`
	Since  time.Time `json:"since,omitzero"`
	Until  time.Time `json:"until,omitzero"`
	DryRun bool      `json:"dry_run,omitempty"`
}

// Recovered is how many deliveries were queued again, or would be.
type Recovered struct {
	Count int64 `json:"count"`
}

// What can be sent again besides what failed.
const (
	StateMissed  = "missed"
	StateWaiting = "waiting"
)

func (s *server) recoverWebhook(r *http.Request) (any, error) {
	var in Recovery
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	what := relay.Recovery{Since: in.Since, Until: in.Until, DryRun: in.DryRun}
	switch in.State {
	case StateFailed:
		what.Failed = true
	case StateMissed:
		what.Missed = true
	case StateWaiting:
		what.Waiting = true
	case "":
		what.Failed, what.Missed = true, !in.Since.IsZero()
	default:
		return nil, Unprocessable("/state", fmt.Errorf("%q is none of failed, missed and waiting", in.State))
	}
	if what.Missed && what.Since.IsZero() {
		return nil, Unprocessable("/since", errors.New("is needed, to say from when on events were missed"))
	}
	count, err := s.relay.Recover(r.Context(), r.PathValue("name"), what, UserOf(r))
	if err != nil {
		return nil, err
	}
	return Recovered{count}, nil
}

func (s *server) redeliver(r *http.Request) (any, error) {
	id, err := queue.ParseDeliveryID(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	if err := s.relay.Redeliver(r.Context(), id, UserOf(r)); err != nil {
		return nil, err
	}
	d, err := s.queue.Delivery(r.Context(), id)
	if err != nil {
		return nil, err
	}
	return s.viewWithAttempts(r, d, s.names())
}

// Activity is one line of the activity log.
type Activity struct {
	ID      string    `json:"id"`
	At      time.Time `json:"at"`
	What    string    `json:"what"`
	Who     string    `json:"who"`
	Webhook string    `json:"webhook,omitempty"`
	Detail  string    `json:"detail,omitempty"`
}

func (s *server) activity(r *http.Request) (any, error) {
	p := parameters{values: r.URL.Query()}
	limit, cursor := p.limit(maxEvents), p.text("cursor")
	if err := p.err(); err != nil {
		return nil, err
	}
	found, err := s.relay.Activities(r.Context(), limit, cursor)
	if err != nil {
		return nil, CursorProblem(err, cursor)
	}
	page := Page[Activity]{Items: make([]Activity, len(found.Items)), Next: found.Next}
	for i, l := range found.Items {
		page.Items[i] = Activity{l.ID, moment(l.At), l.What, l.Who, l.Webhook, l.Detail}
	}
	return page, nil
}
