package console

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
	"github.com/userhero/relay/relay/signature"
)

// maxRequest bounds the body of a request.
const maxRequest = 64 << 10

// webhookInput is a webhook as it is added or changed. What is absent keeps its
// value, or its default where the webhook is new.
type webhookInput struct {
	Name           *string            `json:"name"`
	URL            *string            `json:"url"`
	Secret         *string            `json:"secret"`
	GenerateSecret bool               `json:"generate_secret"`
	Events         *[]event.Type      `json:"events"`
	Filter         *string            `json:"filter"`
	Headers        *map[string]string `json:"headers"`
	TLS            *tlsInput          `json:"tls"`
	Retry          *[]string          `json:"retry"`
	Timeout        *string            `json:"timeout"`
	Concurrency    *int               `json:"concurrency"`
	Rate           *string            `json:"rate"`
	Ordered        *bool              `json:"ordered"`
}

// tlsInput are a webhook's TLS settings, in PEM; they are replaced as a whole.
type tlsInput struct {
	ClientCertificate    string `json:"client_certificate"`
	ClientCertificateKey string `json:"client_certificate_key"`
	RootCA               string `json:"root_ca"`
}

// apply puts what is given into the settings. Its error joins a problem for each
// member that cannot be read.
func (in webhookInput) apply(c *relay.WebhookConfig) error {
	var errs []error
	wrong := func(pointer string, err error) { errs = append(errs, unprocessable(pointer, err)) }
	set(&c.Name, in.Name)
	if in.URL != nil {
		whole, err := unmask(*in.URL, c.URL)
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
			if value == relay.RedactedValue {
				wrong("/headers", fmt.Errorf("%s has %s, which stands for a hidden value; write the value itself", name, value))
			}
			c.Header[name] = []string{value} // goes out spelled as it is
		}
	}
	if in.TLS != nil {
		c.TLS = relay.TLS{Certificate: in.TLS.ClientCertificate, Key: in.TLS.ClientCertificateKey, CA: in.TLS.RootCA}
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

func unprocessable(pointer string, err error) error {
	return event.NewProblem(http.StatusUnprocessableEntity, "The settings are not valid.", event.FieldError{Pointer: pointer, Detail: err.Error()})
}

// decode reads a request's JSON into v; an empty body leaves v as it is. A
// member that is not known is an error: a typing mistake would else be a setting
// that is silently not made.
func decode(r *http.Request, v any) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxRequest+1))
	if err != nil {
		return event.NewProblem(http.StatusBadRequest, "The body could not be read.")
	}
	if len(body) > maxRequest {
		return event.NewProblem(http.StatusRequestEntityTooLarge, fmt.Sprintf("The body has more than %d bytes.", maxRequest))
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
		return unprocessable("/"+wrongType.Field, fmt.Errorf("is %s; it must be %s", wrongType.Value, wrongType.Type))
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

// withSecret is a webhook with the secret that was made for it, which is shown
// this once.
type withSecret struct {
	webhookView
	Secret string `json:"secret,omitempty"`
}

func (a *api) addWebhook(r *http.Request) (any, error) {
	var in webhookInput
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	var c relay.WebhookConfig
	if err := in.apply(&c); err != nil {
		return nil, err
	}
	made := ""
	if c.Secret == "" && in.GenerateSecret {
		made = signature.NewSecret()
		c.Secret = made
	}
	if err := a.relay.Add(r.Context(), c, a.who(r)); err != nil {
		return nil, err
	}
	v, err := a.named(c.Name)
	if err != nil {
		return nil, err
	}
	return created{withSecret{v, made}}, nil
}

func (a *api) changeWebhook(r *http.Request) (any, error) {
	var in webhookInput
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	name := r.PathValue("name")
	if in.Name != nil && *in.Name != name {
		return nil, unprocessable("/name", errors.New("a webhook keeps its name"))
	}
	if in.Secret != nil || in.GenerateSecret {
		return nil, unprocessable("/secret", errors.New("is changed by POST …/rotate, so that receivers can follow"))
	}
	if err := a.relay.Change(r.Context(), name, in.apply, a.who(r)); err != nil {
		return nil, err
	}
	return a.named(name)
}

// named is one webhook as it is now.
func (a *api) named(name string) (webhookView, error) {
	w, ok := a.relay.Webhook(name)
	if !ok {
		return webhookView{}, event.NewProblem(http.StatusNotFound, fmt.Sprintf("There is no webhook named %q.", name))
	}
	return viewWebhook(w), nil
}

func (a *api) deleteWebhook(r *http.Request) (any, error) {
	name := r.PathValue("name")
	ended, err := a.relay.Delete(r.Context(), name, a.who(r))
	if err != nil {
		return nil, err
	}
	return struct {
		Deleted string `json:"deleted"`
		Ended   int64  `json:"deliveries_ended"`
	}{name, ended}, nil
}

func (a *api) enableWebhook(r *http.Request) (any, error) {
	name := r.PathValue("name")
	if err := a.relay.Enable(r.Context(), name, a.who(r)); err != nil {
		return nil, err
	}
	return a.named(name)
}

func (a *api) disableWebhook(r *http.Request) (any, error) {
	name := r.PathValue("name")
	if err := a.relay.Disable(r.Context(), name, a.who(r)); err != nil {
		return nil, err
	}
	return a.named(name)
}

// testView is what came of a test send.
type testView struct {
	OK              bool              `json:"ok"`
	Status          int               `json:"status"` // 0 where no answer came
	DurationMS      float64           `json:"duration_ms"`
	Error           string            `json:"error,omitempty"`
	ErrorClass      string            `json:"error_class,omitempty"`
	ResponseBody    string            `json:"response_body"`
	ResponseHeaders map[string]string `json:"response_headers"`
	RequestHeaders  map[string]string `json:"request_headers"`
}

func (a *api) testWebhook(r *http.Request) (any, error) {
	result, err := a.relay.Test(r.Context(), r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	at := viewAttempt(result.Attempt)
	return testView{
		OK: result.OK, Status: at.Status, DurationMS: at.DurationMS, Error: at.Error, ErrorClass: at.ErrorClass,
		ResponseBody: at.ResponseBody, ResponseHeaders: at.ResponseHeaders, RequestHeaders: at.RequestHeaders,
	}, nil
}

// rotation says with which secret to go on.
type rotation struct {
	Secret  string `json:"secret"`
	Overlap string `json:"overlap"`
}

func (a *api) rotateSecret(r *http.Request) (any, error) {
	var in rotation
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	var overlap time.Duration
	if in.Overlap != "" {
		var err error
		if overlap, err = relay.ParseDuration(in.Overlap); err != nil || overlap < 0 {
			return nil, unprocessable("/overlap", errors.New("is no duration such as 24h"))
		}
	}
	name := r.PathValue("name")
	secret, err := a.relay.Rotate(r.Context(), name, in.Secret, overlap, a.who(r))
	if err != nil {
		return nil, err
	}
	v, err := a.named(name)
	if err != nil {
		return nil, err
	}
	if in.Secret != "" {
		secret = "" // its owner knows it
	}
	return withSecret{v, secret}, nil
}

// recovery says what to deliver: what failed, what was missed, or what waits on
// a rung. Without a state it is what failed, and with a time also what was missed
// since.
type recovery struct {
	State  string    `json:"state"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until"`
	DryRun bool      `json:"dry_run"`
}

// What can be sent again besides what failed.
const (
	stateMissed  = "missed"
	stateWaiting = "waiting"
)

func (a *api) recoverWebhook(r *http.Request) (any, error) {
	var in recovery
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	what := relay.Recovery{Since: in.Since, Until: in.Until, DryRun: in.DryRun}
	switch in.State {
	case stateFailed:
		what.Failed = true
	case stateMissed:
		what.Missed = true
	case stateWaiting:
		what.Waiting = true
	case "":
		what.Failed, what.Missed = true, !in.Since.IsZero()
	default:
		return nil, unprocessable("/state", fmt.Errorf("%q is none of failed, missed and waiting", in.State))
	}
	if what.Missed && what.Since.IsZero() {
		return nil, unprocessable("/since", errors.New("is needed, to say from when on events were missed"))
	}
	count, err := a.relay.Recover(r.Context(), r.PathValue("name"), what, a.who(r))
	if err != nil {
		return nil, err
	}
	return struct {
		Count int64 `json:"count"`
	}{count}, nil
}

func (a *api) redeliver(r *http.Request) (any, error) {
	id, err := queue.ParseDeliveryID(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	if err := a.relay.Redeliver(r.Context(), id, a.who(r)); err != nil {
		return nil, err
	}
	d, err := a.queue.Delivery(r.Context(), id)
	if err != nil {
		return nil, err
	}
	return a.viewWithAttempts(r, d, a.names())
}

// activityView is one line of the activity log.
type activityView struct {
	ID      string    `json:"id"`
	At      time.Time `json:"at"`
	What    string    `json:"what"`
	Who     string    `json:"who"`
	Webhook string    `json:"webhook,omitempty"`
	Detail  string    `json:"detail,omitempty"`
}

func (a *api) activity(r *http.Request) (any, error) {
	p := parameters{values: r.URL.Query()}
	limit, cursor := p.limit(maxEvents), p.text("cursor")
	if err := p.err(); err != nil {
		return nil, err
	}
	found, err := a.relay.Activities(r.Context(), limit, cursor)
	if err != nil {
		return nil, cursorProblem(err, cursor)
	}
	page := list[activityView]{Items: make([]activityView, len(found.Items)), Next: found.Next}
	for i, l := range found.Items {
		page.Items[i] = activityView{l.ID, moment(l.At), l.What, l.Who, l.Webhook, l.Detail}
	}
	return page, nil
}
