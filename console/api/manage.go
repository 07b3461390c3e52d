package api

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/signature"
)

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
	if in.Secret != nil || in.GenerateSecret {
		return nil, Unprocessable("/secret", errors.New("use POST …/rotate, so that the old secret can keep working for a while"))
	}
	if err := s.relay.Change(r.Context(), name, in.Apply, UserOf(r)); err != nil {
		return nil, err
	}
	if in.Name != nil {
		name = *in.Name
	}
	return s.named(name)
}

func (s *server) deleteWebhook(r *http.Request) (any, error) {
	name := r.PathValue("name")
	ended, err := s.relay.Delete(r.Context(), name, UserOf(r))
	if err != nil {
		return nil, err
	}
	return Deleted{name, ended}, nil
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

func (s *server) testWebhook(r *http.Request) (any, error) {
	result, err := s.relay.Test(r.Context(), r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	at := viewAttempt(result.Attempt)
	return TestResult{
		OK: result.OK, Status: at.Status, DurationMS: at.DurationMS, Error: at.Error, ErrorClass: at.ErrorClass,
		ResponseBody: at.ResponseBody, ResponseHeaders: at.ResponseHeaders, RequestHeaders: at.RequestHeaders, RequestBody: at.RequestBody,
	}, nil
}

func (s *server) previewBody(r *http.Request) (any, error) {
	var in PreviewRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	w, ok := s.relay.Webhook(r.PathValue("name"))
	if !ok {
		return nil, fmt.Errorf("webhook %q: %w", r.PathValue("name"), queue.ErrNotFound)
	}
	source := w.Body
	setIfGiven(&source, in.Body)
	made, err := s.relay.Preview(r.Context(), w.Name, w.Projects, source)
	if err != nil {
		return nil, err
	}
	return viewPreviews(made), nil
}

func (s *server) rotateSecret(r *http.Request) (any, error) {
	var in Rotation
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	overlap, err := OverlapOf(in.Overlap)
	if err != nil {
		return nil, err
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
		secret = "" // the client knows it
	}
	return WebhookWithSecret{v, secret}, nil
}

func (s *server) rotateSigningKey(r *http.Request) (any, error) {
	var in KeyRotation
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	overlap, err := OverlapOf(in.Overlap)
	if err != nil {
		return nil, err
	}
	name := r.PathValue("name")
	if err := s.relay.RotateSigningKey(r.Context(), name, in.SigningKey, overlap, UserOf(r)); err != nil {
		return nil, err
	}
	return s.named(name)
}

// OverlapOf reads how long an old secret or key also works; empty is not at all.
func OverlapOf(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	overlap, err := relay.ParseDuration(text)
	if err != nil || overlap < 0 {
		return 0, Unprocessable("/overlap", errors.New("is not a duration such as 24h"))
	}
	return overlap, nil
}

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
		return nil, Unprocessable("/state", fmt.Errorf("%q is not failed, missed or waiting", in.State))
	}
	if what.Missed && what.Since.IsZero() {
		return nil, Unprocessable("/since", errors.New("is required: since when were events missed?"))
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
