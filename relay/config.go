package relay

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/body"
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

// Config holds one generation of settings. It must not change after Attach.
type Config struct {
	// Projects are the projects that the configuration names, sorted. What is counted by
	// project is counted for these.
	Projects []string
	Webhooks []WebhookConfig
	// Retry is the ladder of webhooks that set none. Nil means DefaultLadder; empty
	// means no retries.
	Retry []time.Duration
	// Timeout applies to webhooks that set none. 0 means DefaultTimeout.
	Timeout time.Duration
	Egress  deliver.Egress
	// Notifiers send notices when a webhook fails, recovers or is disabled. They work
	// independently: if one refuses a notice, the relay still sends it through the
	// rest.
	Notifiers []notify.Notifier
	// ConsoleURL is the console's address for links in notices. If it is empty, notices
	// have no link.
	ConsoleURL string
	// GroupNotices is how long the relay collects notices before it sends them
	// together. 0 means one minute.
	GroupNotices time.Duration
	// WarnAfter applies to webhooks that set none. 0 means no warnings.
	WarnAfter time.Duration
}

// WebhookConfig is the configuration of one webhook. The store keeps it as JSON,
// secrets included, for webhooks that were added through the API.
type WebhookConfig struct {
	// Name identifies the webhook: letters, digits, - and _, at most 63.
	// The name of a webhook that was added in a scope ends with an @ and Scope.
	Name string `json:"-"`
	// Scope is the scope in which the webhook was added; empty for none. Its name is
	// unique there, and may exist in other scopes too.
	Scope string `json:"scope,omitempty"`
	// Public means that the webhook reaches public addresses only, whatever Egress
	// allows.
	Public bool `json:"public,omitempty"`
	// URL is the receiver's address: absolute, http or https.
	URL string `json:"url"`
	// Secret signs the requests. If it is empty, requests are not signed.
	Secret string `json:"secret,omitempty"`
	// PreviousSecret also signs requests while the secret is being rotated.
	PreviousSecret string `json:"previous_secret,omitempty"`
	// PreviousUntil is when the previous secret stops signing. If it is zero, the
	// previous secret signs for as long as it is configured.
	PreviousUntil time.Time `json:"previous_until,omitzero"`
	// SigningKey is an ed25519 private key, in PEM or whsk_…, that signs besides the
	// secret. PreviousSigningKey signs too while the key is rotated.
	SigningKey         string `json:"signing_key,omitempty"`
	PreviousSigningKey string `json:"previous_signing_key,omitempty"`
	// PreviousSigningUntil is when the previous key stops signing. If it is zero, the
	// previous key signs for as long as it is configured.
	PreviousSigningUntil time.Time `json:"previous_signing_until,omitzero"`
	// Projects are the projects whose feedback the webhook gets. Empty means all, and
	// feedback without a project.
	Projects []string `json:"projects,omitempty"`
	// Events are the event types the webhook wants. Empty means all of feedback.
	// Operational events must be named.
	Events []event.Type `json:"events,omitempty"`
	// Filter is a CEL expression over `event` and `data`. Empty means all events.
	Filter string `json:"filter,omitempty"`
	// Body makes what is sent: a preset of package body, or a CEL expression. Empty
	// means the event's document.
	Body string `json:"body,omitempty"`
	// Header is sent with every attempt.
	Header http.Header `json:"header,omitempty"`
	// TLS holds a client certificate if the receiver asks for one, and the authorities
	// that sign the receiver's certificate if they are not public.
	TLS deliver.TLS `json:"tls,omitzero"`
	// Retry is the webhook's ladder. Nil means the generation's; empty means no
	// retries.
	Retry []time.Duration `json:"retry,omitzero"`
	// Timeout bounds one attempt. 0 means the generation's.
	Timeout time.Duration `json:"timeout,omitempty"`
	// Concurrency bounds the attempts in flight. 0 means DefaultConcurrency.
	Concurrency int `json:"concurrency,omitempty"`
	// Rate bounds how often attempts start. Zero means no bound.
	Rate Rate `json:"rate,omitzero"`
	// Ordered keeps the events of each feedback in order.
	Ordered bool `json:"ordered,omitempty"`
	// Notify holds the e-mail addresses of the webhook's owners. They get the notices about
	// it, in addition to the recipients of the notifiers.
	Notify []string `json:"notify,omitempty"`
	// WarnAfter is how long every attempt must fail before a warning is sent. 0 means
	// the generation's.
	WarnAfter time.Duration `json:"-"`
	// Disabled means that the webhook gets no new events and that its waiting
	// deliveries are held.
	Disabled bool `json:"-"`
}

// Rate is a number of attempts per period.
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

// ParseDuration is time.ParseDuration with a unit for days: "30d", "1d12h".
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

// String returns the rate in the form that ParseRate reads, or "" if there is no bound.
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

// Validate checks the settings. It uses neither the store nor the network.
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
	if err := c.notices(nil).Validate(); err != nil {
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
		if len(w.Notify) > 0 && !slices.ContainsFunc(c.Notifiers, func(n notify.Notifier) bool { _, ok := n.(notify.Mailer); return ok }) {
			errs = append(errs, fmt.Errorf("webhook %s: notify: nothing sends mails; configure notify smtp", w.Name))
		}
	}
	return errors.Join(errs...)
}

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)

// LocalName returns the webhook's name within its scope.
func (w WebhookConfig) LocalName() string {
	if w.Scope == "" {
		return w.Name
	}
	return strings.TrimSuffix(w.Name, "@"+w.Scope)
}

// Validate checks a webhook's settings. It returns a deliver.SettingError for each
// wrong setting, joined.
func (w WebhookConfig) Validate() error {
	var errs []error
	wrong := func(option, format string, args ...any) {
		errs = append(errs, &deliver.SettingError{Setting: option, Err: fmt.Errorf(format, args...)})
	}
	if !validName.MatchString(w.LocalName()) {
		wrong("name", "%q must have 1 to 63 letters, digits, - and _, and begin with a letter or digit", w.Name)
	}
	if err := w.delivery("").Validate(); err != nil {
		errs = append(errs, err)
	}
	if slices.Contains(w.Projects, "") {
		wrong("projects", "a project is empty; leave the setting out for all projects")
	}
	if slices.ContainsFunc(w.Projects, func(project string) bool { return !utf8.ValidString(project) }) {
		wrong("projects", "a project is not UTF-8")
	}
	for _, t := range w.Events {
		if all := slices.Concat(event.Types(), event.OperationalTypes()); !slices.Contains(all, t) {
			wrong("events", "there is no event type %q; there are %v", t, all)
		}
	}
	if w.Filter != "" {
		if _, err := expression.CompileCondition(w.Filter); err != nil {
			wrong("filter", "%w", err)
		}
	}
	if _, err := body.Compile(w.Body); err != nil {
		wrong("body", "%w", err)
	}
	for _, address := range w.Notify {
		if _, err := notify.ParseAddress(address); err != nil {
			wrong("notify", "%w", err)
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

// notices returns the settings for notices.
func (c Config) notices(r *Relay) notify.Config {
	return notify.Config{Notifiers: c.Notifiers, Operational: operational{r}, ConsoleURL: c.ConsoleURL, GroupWithin: c.GroupNotices}
}

// takes reports whether the webhook gets the events of a feedback, by its project.
// Feedback without a project goes only to webhooks that name no project. Events that are
// not about feedback are not checked here.
func (w WebhookConfig) takes(f queue.FeedbackID) bool {
	// Promise 6: feedback of other projects does not go out.
	return len(w.Projects) == 0 || f.IsZero() || slices.Contains(w.Projects, f.Project)
}

// delivery returns the settings that deliver needs to reach the receiver.
func (w WebhookConfig) delivery(userAgent string) deliver.Config {
	return deliver.Config{
		URL: w.URL, Secret: w.Secret, PreviousSecret: w.PreviousSecret, PreviousUntil: w.PreviousUntil,
		SigningKey: w.SigningKey, PreviousSigningKey: w.PreviousSigningKey, PreviousSigningUntil: w.PreviousSigningUntil,
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

// target holds one webhook's settings in force. It is compiled once and never changes.
// An attempt keeps the target it started with.
type target struct {
	*deliver.Receiver
	config WebhookConfig         // with all defaults filled in
	filter *expression.Condition // nil means every event
	// filters is held while a dear filter judges. It is the relay's; nil means that no
	// filter waits. watch is how many events the filter still judges in turn.
	filters *sync.Mutex
	watch   atomic.Int32
	body    *body.Body  // nil means the event's document
	turns   *body.Turns // of the relay; nil means that nothing waits
	// console is the console's address; empty if none is configured.
	console string
}

// watched is how many events a filter judges in turn after one that was dear to judge.
const watched = 100

// judge applies the filter to a document. Submissions wait for the filters of the webhooks
// that get their project's feedback. Filters that are dear judge one after another, for all
// webhooks together: they take one processor at most, and leave the others to submissions
// that need none of them.
func (t *target) judge(doc *expression.Document) (bool, error) {
	inTurn := t.filters != nil && t.watch.Load() > 0
	if inTurn {
		t.filters.Lock()
		defer t.filters.Unlock()
	}
	holds, dear, err := t.filter.Judge(doc)
	switch {
	case dear:
		t.watch.Store(watched)
	case inTurn:
		t.watch.Add(-1)
	}
	return holds, err
}

// newTarget compiles complete settings.
func newTarget(w WebhookConfig, c *deliver.Client, turns *body.Turns, userAgent, console string) (*target, error) {
	receiver, err := c.Receiver(w.delivery(userAgent))
	if err != nil {
		return nil, err
	}
	t := &target{Receiver: receiver, config: w, turns: turns, console: strings.TrimSuffix(console, "/")}
	if w.Filter != "" {
		if t.filter, err = expression.CompileCondition(w.Filter); err != nil {
			return nil, fmt.Errorf("filter: %w", err)
		}
	}
	if t.body, err = body.Compile(w.Body); err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	return t, nil
}
