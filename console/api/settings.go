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
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/deliver"
)

// MaxRequest bounds the body of a request, in bytes.
const MaxRequest = 64 << 10

// Apply sets the given settings in a configuration. Its error joins a problem for
// each setting that cannot be read.
func (in WebhookSettings) Apply(c *relay.WebhookConfig) error {
	var errs []error
	wrong := func(pointer string, err error) { errs = append(errs, Unprocessable(pointer, err)) }
	setIfGiven(&c.Name, in.Name)
	if in.URL != nil {
		full, err := UnmaskURL(*in.URL, c.URL)
		if err != nil {
			wrong("/url", err)
		}
		c.URL = full
	}
	setIfGiven(&c.Secret, in.Secret)
	if in.SigningKey != nil || in.PreviousSigningKey != nil {
		setIfGiven(&c.SigningKey, in.SigningKey)
		setIfGiven(&c.PreviousSigningKey, in.PreviousSigningKey)
		if c.PreviousSigningUntil = (time.Time{}); c.SigningKey == "" && in.PreviousSigningKey == nil {
			c.PreviousSigningKey = "" // no key signs any more
		}
	}
	setIfGiven(&c.Projects, in.Projects)
	setIfGiven(&c.Events, in.Events)
	setIfGiven(&c.Filter, in.Filter)
	setIfGiven(&c.Body, in.Body)
	setIfGiven(&c.Notify, in.Notify)
	setIfGiven(&c.Concurrency, in.Concurrency)
	setIfGiven(&c.Ordered, in.Ordered)
	if in.Headers != nil {
		c.Header = make(http.Header, len(*in.Headers))
		for name, value := range *in.Headers {
			if value == deliver.RedactedValue {
				wrong("/headers", fmt.Errorf("%s has %s, which stands for a hidden value; write the real value", name, value))
			}
			c.Header[name] = []string{value} // sent spelled as it is
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

// setIfGiven copies a setting, unless it is nil.
func setIfGiven[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

// decode reads a request's JSON into v; an empty body leaves v as it is. An unknown
// member is an error, so that a typing mistake does not drop a setting silently.
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
		return event.NewProblem(http.StatusUnsupportedMediaType, fmt.Sprintf("The body is %s. Send application/json.", t))
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	err = d.Decode(v)
	if err == nil && d.More() {
		err = errors.New("there is more after the JSON value")
	}
	var wrongType *json.UnmarshalTypeError
	if errors.As(err, &wrongType) {
		return Unprocessable("/"+wrongType.Field, fmt.Errorf("is %s; it must be %s", wrongType.Value, wrongType.Type))
	}
	if err != nil {
		return event.NewProblem(http.StatusBadRequest, "The body is not the expected JSON: "+err.Error())
	}
	return nil
}

// isJSON reports whether a media type is JSON (RFC 6839, §3.1).
func isJSON(contentType string) bool {
	t, _, err := mime.ParseMediaType(contentType)
	return err == nil && (t == "application/json" || strings.HasSuffix(t, "+json"))
}
