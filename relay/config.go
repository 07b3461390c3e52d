package relay

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/relay/deliver"
	"github.com/userhero/relay/relay/expression"
	"github.com/userhero/relay/relay/notify"
)

// Bounds of what may be configured.
const (
	DefaultTimeout     = 30 * time.Second
	DefaultConcurrency = 8
	maxTimeout         = 10 * time.Minute
	maxRungs           = 100
	maxRung            = 30 * 24 * time.Hour
)

// DefaultLadder returns the delays before each retry: 1m 5m 30m 2h 24h.
func DefaultLadder() []time.Duration {
	return []time.Duration{time.Minute, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 24 * time.Hour}
}

// Config is one generation of settings. It is not changed once attached.
type Config struct {
	Webhooks []WebhookConfig
	// Retry is the ladder of webhooks without their own. Nil is DefaultLadder,
	// empty is no retries.
	Retry []time.Duration
	// Timeout is that of webhooks without their own; 0 is DefaultTimeout.
	Timeout time.Duration
	Egress  deliver.Egress
	// Notifiers are told when a webhook fails, recovers or is disabled. Each is
	// told by itself: what one of them refuses is still tried with the others.
	Notifiers []notify.Notifier
	// ConsoleURL is the address of the console, for notices; empty is none.
	ConsoleURL string
	// GroupNotices is how long a notice waits for others that go out with it; 0
	// is one minute.
	GroupNotices time.Duration
	// WarnAfter is that of webhooks without their own; 0 gives no warnings.
	WarnAfter time.Duration
}

// WebhookConfig is one webhook as configured. As JSON, with its secrets, the store keeps
// webhooks that were added through the API.
type WebhookConfig struct {
	// Name identifies the webhook: letters, digits, - and _, at most 63.
	Name string `json:"-"`
	// URL is where events go: absolute, http or https.
	URL string `json:"url"`
	// Secret keys the signatures; empty sends none.
	Secret string `json:"secret,omitempty"`
	// PreviousSecret, while a secret is being rotated, also signs.
	PreviousSecret string `json:"previous_secret,omitempty"`
	// PreviousUntil is when the previous secret stops signing; zero: not while
	// it is configured.
	PreviousUntil time.Time `json:"previous_until,omitzero"`
	// Events are the types it wants; empty is all.
	Events []event.Type `json:"events,omitempty"`
	// Filter is a CEL expression over `event` and `data`; empty is all.
	Filter string `json:"filter,omitempty"`
	// Header is sent with every attempt.
	Header http.Header `json:"header,omitempty"`
	// TLS is for receivers that ask for a client certificate, or whose own is not
	// of a public authority.
	TLS deliver.TLS `json:"tls,omitzero"`
	// Retry is its ladder; nil is the generation's, empty is no retries.
	Retry []time.Duration `json:"retry,omitzero"`
	// Timeout bounds one attempt; 0 is the generation's.
	Timeout time.Duration `json:"timeout,omitempty"`
	// Concurrency bounds attempts at one time; 0 is DefaultConcurrency.
	Concurrency int `json:"concurrency,omitempty"`
	// Rate bounds attempts per time; zero is no bound.
	Rate Rate `json:"rate,omitzero"`
	// Ordered keeps events of one feedback in order.
	Ordered bool `json:"ordered,omitempty"`
	// WarnAfter is how long every attempt may fail before a warning is sent; 0 is
	// the generation's.
	WarnAfter time.Duration `json:"-"`
	// Disabled webhooks get no new events and hold those that wait.
	Disabled bool `json:"-"`
}

// Rate is a number of attempts in a time.
type Rate struct {
	Events int
	Per    time.Duration
}

// ParseRate reads "50/s", "100/m", "1000/h" or "5/10s".
func ParseRate(s string) (Rate, error) {
	n, per, ok := strings.Cut(s, "/")
	events, err := strconv.Atoi(n)
	if !ok || err != nil || events < 1 {
		return Rate{}, fmt.Errorf("%q is no rate; write for example 50/s", s)
	}
	if per != "" && (per[0] < '0' || per[0] > '9') {
		per = "1" + per
	}
	d, err := time.ParseDuration(per)
	if err != nil || d <= 0 {
		return Rate{}, fmt.Errorf("%q is no rate; write for example 50/s", s)
	}
	return Rate{Events: events, Per: d}, nil
}

// ParseDuration is time.ParseDuration with days: "30d", "1d12h".
func ParseDuration(s string) (time.Duration, error) {
	var days time.Duration
	rest := s
	if whole, after, ok := strings.Cut(s, "d"); ok {
		n, err := strconv.ParseUint(whole, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("%q is no duration; write for example 30s, 5m, 24h or 30d", s)
		}
		days, rest = time.Duration(n)*24*time.Hour, after
	}
	if rest == "" && days > 0 {
		return days, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil {
		return 0, fmt.Errorf("%q is no duration; write for example 30s, 5m, 24h or 30d", s)
	}
	return days + d, nil
}

// String is what ParseRate reads; empty for no bound.
func (r Rate) String() string {
	switch {
	case r.Events == 0:
		return ""
	case r.Per == time.Second:
		return fmt.Sprintf("%d/s", r.Events)
	case r.Per == time.Minute:
		return fmt.Sprintf("%d/m", r.Events)
	case r.Per == time.Hour:
		return fmt.Sprintf("%d/h", r.Events)
	}
	return fmt.Sprintf("%d/%s", r.Events, r.Per)
}

// Validate says what is wrong with the settings, touching neither store nor
// network.
func (c Config) Validate() error {
	var errs []error
	if err := validateLadder(c.Retry); err != nil {
		errs = append(errs, fmt.Errorf("retry: %w", err))
	}
	if err := validateTimeout(c.Timeout); err != nil {
		errs = append(errs, fmt.Errorf("timeout: %w", err))
	}
	if err := c.Egress.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("egress: %w", err))
	}
	if err := c.notices().Validate(); err != nil {
		errs = append(errs, err)
	}
	seen := make(map[string]bool)
	for _, w := range c.Webhooks {
		if seen[w.Name] {
			errs = append(errs, fmt.Errorf("webhook %s: the name is taken", w.Name))
		}
		seen[w.Name] = true
		if err := w.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("webhook %s: %w", w.Name, err))
		}
	}
	return errors.Join(errs...)
}

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)

// Validate says what is wrong with a webhook's settings. It joins a
// deliver.SettingError for each that is wrong.
func (w WebhookConfig) Validate() error {
	var errs []error
	wrong := func(option, format string, args ...any) {
		errs = append(errs, &deliver.SettingError{Setting: option, Err: fmt.Errorf(format, args...)})
	}
	if !validName.MatchString(w.Name) {
		wrong("name", "%q must have 1 to 63 letters, digits, - and _, and begin with a letter or digit", w.Name)
	}
	if err := w.delivery("").Validate(); err != nil {
		errs = append(errs, err)
	}
	for _, t := range w.Events {
		if !slices.Contains(event.Types(), t) {
			wrong("events", "there is no event type %q; there are %v", t, event.Types())
		}
	}
	if w.Filter != "" {
		if _, err := expression.CompileCondition(w.Filter); err != nil {
			wrong("filter", "%w", err)
		}
	}
	if err := validateLadder(w.Retry); err != nil {
		wrong("retry", "%w", err)
	}
	if err := validateTimeout(w.Timeout); err != nil {
		wrong("timeout", "%w", err)
	}
	if w.Concurrency < 0 || w.Concurrency > deliver.MaxConcurrency {
		wrong("concurrency", "%d is not between 1 and %d", w.Concurrency, deliver.MaxConcurrency)
	}
	return errors.Join(errs...)
}

func validateLadder(rungs []time.Duration) error {
	if len(rungs) > maxRungs {
		return fmt.Errorf("%d rungs; at most %d", len(rungs), maxRungs)
	}
	for _, d := range rungs {
		if d <= 0 || d > maxRung {
			return fmt.Errorf("a rung of %s; each must be above 0 and at most 30 days", d)
		}
	}
	return nil
}

func validateTimeout(d time.Duration) error {
	if d < 0 || d > maxTimeout {
		return fmt.Errorf("%s is not between 0 and %s", d, maxTimeout)
	}
	return nil
}

// notices is what the settings say about notices.
func (c Config) notices() notify.Config {
	return notify.Config{Notifiers: c.Notifiers, ConsoleURL: c.ConsoleURL, GroupWithin: c.GroupNotices}
}

// delivery is how the webhook's receiver is reached.
func (w WebhookConfig) delivery(userAgent string) deliver.Config {
	return deliver.Config{
		URL: w.URL, Secret: w.Secret, PreviousSecret: w.PreviousSecret, PreviousUntil: w.PreviousUntil,
		Header: w.Header, TLS: w.TLS, Timeout: w.Timeout, UserAgent: userAgent,
	}
}

// complete returns the webhook with the generation's defaults filled in.
func (w WebhookConfig) complete(c Config) WebhookConfig {
	if w.Retry == nil {
		w.Retry = c.Retry
	}
	if w.Retry == nil {
		w.Retry = DefaultLadder()
	}
	if w.Timeout == 0 {
		w.Timeout = c.Timeout
	}
	if w.Timeout == 0 {
		w.Timeout = DefaultTimeout
	}
	if w.Concurrency == 0 {
		w.Concurrency = DefaultConcurrency
	}
	if w.WarnAfter == 0 {
		w.WarnAfter = c.WarnAfter
	}
	return w
}

// target is one webhook's settings in force: compiled once, never changed. An
// attempt under way keeps the target it began with.
type target struct {
	*deliver.Receiver
	config WebhookConfig         // complete
	filter *expression.Condition // nil: everything
}

// newTarget compiles complete settings.
func newTarget(w WebhookConfig, c *deliver.Client, userAgent string) (*target, error) {
	receiver, err := c.Receiver(w.delivery(userAgent))
	if err != nil {
		return nil, err
	}
	t := &target{Receiver: receiver, config: w}
	if w.Filter != "" {
		if t.filter, err = expression.CompileCondition(w.Filter); err != nil {
			return nil, fmt.Errorf("filter: %w", err)
		}
	}
	return t, nil
}
