package scope

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/deliver"
	"github.com/userhero/relay/relay/feed"
	"github.com/userhero/relay/relay/tally"
)

// hasWebhook reports whether the scope has a webhook.
func (v *View) hasWebhook(id queue.WebhookID) bool {
	return !v.Scoped() || v.hasAll(v.relay.ProjectsOf(id))
}

// shown returns a webhook with its name in the scope. A webhook that was added in this
// scope has its local name there, unless the configuration has a webhook of that name.
func (v *View) shown(w relay.WebhookStatus) relay.WebhookStatus {
	if local := v.localName(w.Name); local != w.Name {
		if other, taken := v.relay.Webhook(local); !taken || !v.has(other) {
			w.Name = local
		}
	}
	return w
}

// localName returns a name without the scope, if that is this one.
func (v *View) localName(name string) string {
	if v.key == "" {
		return name
	}
	return strings.TrimSuffix(name, "@"+v.key)
}

// fullName returns the name of a webhook that is added in the scope.
func (v *View) fullName(local string) string {
	if v.key == "" {
		return local
	}
	return local + "@" + v.key
}

// find returns the webhook that the scope knows by a name.
func (v *View) find(name string) (relay.WebhookStatus, bool) {
	w, ok := v.relay.Webhook(name)
	if ok && v.has(w) {
		return w, true
	}
	if v.Scoped() {
		if w, ok = v.relay.Webhook(v.fullName(name)); ok && v.has(w) {
			return w, true
		}
	}
	return relay.WebhookStatus{}, false
}

// Webhooks returns every webhook, sorted by name.
func (v *View) Webhooks() []relay.WebhookStatus {
	all := v.relay.Webhooks()
	if !v.Scoped() {
		return all
	}
	all = slices.DeleteFunc(all, func(w relay.WebhookStatus) bool { return !v.has(w) })
	for i := range all {
		all[i] = v.shown(all[i])
	}
	slices.SortFunc(all, func(a, b relay.WebhookStatus) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Webhook returns one webhook.
func (v *View) Webhook(name string) (relay.WebhookStatus, bool) {
	w, ok := v.find(name)
	return v.shown(w), ok
}

// WebhookDay returns the counts of the last 24 hours for one webhook.
func (v *View) WebhookDay(name string) (tally.Day, bool) {
	w, _ := v.find(name)
	return v.relay.WebhookDay(w.Name)
}

// WebhookSeries returns the series of one webhook over a time.
func (v *View) WebhookSeries(name string, back time.Duration) (tally.Series, bool) {
	w, _ := v.find(name)
	return v.relay.WebhookSeries(w.Name, back)
}

// Day returns the counts of the last 24 hours. A scope with projects has only what its
// webhooks count: neither the accepted events nor the times of first attempts.
func (v *View) Day() tally.Day {
	if !v.Scoped() {
		return v.relay.Day()
	}
	var names []string
	for _, w := range v.relay.Webhooks() {
		if v.has(w) {
			names = append(names, w.Name)
		}
	}
	return v.relay.DayOf(names)
}

// Stats returns the queue's counters. A scope with projects has only those of its
// webhooks.
func (v *View) Stats() queue.Stats {
	stats := v.relay.Stats()
	if !v.Scoped() {
		return stats
	}
	of := make(map[queue.WebhookID]queue.WebhookStats)
	for id, s := range stats.Webhooks {
		if v.hasWebhook(id) {
			of[id] = s
		}
	}
	return queue.Stats{AsOf: stats.AsOf, Webhooks: of, DiskFree: -1}
}

// OldestDueAge returns how long the oldest due delivery has waited for its attempt.
func (v *View) OldestDueAge() time.Duration {
	if !v.Scoped() {
		return v.relay.OldestDueAge(v.relay.Queue().Stats(context.Background()))
	}
	return v.relay.OldestDueAge(v.Stats())
}

// LastBackup returns when the newest backup was made that was verified; zero in a scope
// with projects, which share the store with others.
func (v *View) LastBackup() time.Time {
	if v.Scoped() {
		return time.Time{}
	}
	return v.relay.LastBackup()
}

// Health returns nil while the queue takes events and the webhooks' deliveries are sent.
func (v *View) Health() error {
	err := v.relay.HealthOf(v.has)
	if err != nil && v.Scoped() && v.relay.Queue().Health() != nil {
		return errors.New("the store takes no events at the moment; whoever runs the relay sees the reason in /status of the admin endpoint")
	}
	return err
}

// DeliveryState returns the state of a delivery that people see.
func (v *View) DeliveryState(d queue.Delivery) string { return v.relay.DeliveryState(d) }

// Activities lists the activity log, newest first. A scope with projects has the
// entries about webhooks that were in it at that time.
func (v *View) Activities(ctx context.Context, limit int, cursor string) (queue.Page[relay.Activity], error) {
	return pageOf(v, cursor, func(cursor string) (queue.Page[relay.Activity], error) {
		page, err := v.relay.Activities(ctx, limit, cursor)
		page.Items = slices.DeleteFunc(page.Items, func(a relay.Activity) bool { return !v.hasAll(a.Projects) })
		for i := range page.Items {
			a := &page.Items[i]
			a.Webhook, a.Detail = v.localName(a.Webhook), v.localName(a.Detail)
		}
		return page, err
	})
}

// Subscribe opens a subscription to what happens. The caller must close it.
func (v *View) Subscribe() *feed.Subscription {
	if !v.Scoped() {
		return v.relay.Subscribe(nil)
	}
	return v.relay.Subscribe(v.see)
}

// see returns a happening as the scope sees it, and whether it does.
func (v *View) see(h feed.Happening) (feed.Happening, bool) {
	if h.Kind != feed.Activity && h.Kind != feed.State && !v.hasProject(h.Feedback.Project) {
		return h, false
	}
	if h.Kind != feed.Accepted && !v.hasAll(h.Projects) {
		return h, false
	}
	h.Deliveries = 0
	for _, projects := range h.Takers {
		if v.hasAll(projects) {
			h.Deliveries++
		}
	}
	h.Webhook, h.Detail = v.localName(h.Webhook), v.localName(h.Detail)
	return h, true
}

// ErrReadOnly refuses a change in a scope that changes nothing.
var ErrReadOnly = errors.New("this console is read-only: it changes nothing")

func (v *View) mayChange() error {
	if v.scope.ReadOnly {
		return ErrReadOnly
	}
	return nil
}

// toChange returns the full name of a webhook of the scope, if it may be changed.
func (v *View) toChange(name string) (full string, err error) {
	if err := v.mayChange(); err != nil {
		return "", err
	}
	w, ok := v.find(name)
	if !ok {
		return "", fmt.Errorf("webhook %q: %w", name, queue.ErrNotFound)
	}
	return w.Name, nil
}

// admit completes the settings of a webhook that is added or changed in the scope.
func (v *View) admit(c *relay.WebhookConfig) error {
	if !v.Scoped() {
		return nil
	}
	if len(c.Projects) == 0 {
		c.Projects = v.Projects()
	}
	if !v.hasAll(c.Projects) {
		return &deliver.SettingError{Setting: "projects", Err: errors.New("choose only among " + strings.Join(v.scope.Projects, ", "))}
	}
	return nil
}

// Prepare completes and checks the settings of a new webhook, as Add does.
func (v *View) Prepare(c *relay.WebhookConfig) error {
	err := v.admit(c)
	if v.Scoped() {
		c.Public = true // Promise 6: egress allows inner addresses for the operator's webhooks.
	}
	return errors.Join(err, c.Validate())
}

// Add creates a webhook. In a scope with projects it gets the scope's projects if it
// names none, and reaches public addresses only.
func (v *View) Add(ctx context.Context, c relay.WebhookConfig, who string) error {
	if err := v.mayChange(); err != nil {
		return err
	}
	if err := v.Prepare(&c); err != nil {
		return fmt.Errorf("%w: %w", relay.ErrInvalid, err)
	}
	if _, taken := v.find(c.Name); taken {
		return fmt.Errorf("webhook %q: %w", c.Name, relay.ErrExists)
	}
	c.Name, c.Scope = v.fullName(c.Name), v.key
	return v.relay.Add(ctx, c, who)
}

// Change changes the settings of a webhook that was added through the API.
func (v *View) Change(ctx context.Context, name string, change func(*relay.WebhookConfig) error, who string) error {
	full, err := v.toChange(name)
	if err != nil {
		return err
	}
	return v.relay.Change(ctx, full, func(c *relay.WebhookConfig) error { return v.change(c, name, change) }, who)
}

// change lets a change see the webhook by its name in the scope.
func (v *View) change(c *relay.WebhookConfig, name string, change func(*relay.WebhookConfig) error) error {
	full, url := c.Name, c.URL
	if !v.Scoped() {
		err := change(c)
		if c.URL != url && c.Scope == "" {
			c.Public = false
		}
		return err
	}
	c.Name = name
	if err := change(c); err != nil {
		return err
	}
	if c.URL != url {
		c.Public = true
	}
	if err := v.admit(c); err != nil {
		return fmt.Errorf("%w: %w", relay.ErrInvalid, err)
	}
	if c.Name == name {
		c.Name = full
		return nil
	}
	if _, taken := v.find(c.Name); taken {
		return fmt.Errorf("webhook %q: %w", c.Name, relay.ErrExists)
	}
	c.Name, c.Scope = v.fullName(c.Name), v.key
	return nil
}

// Rotate replaces a webhook's secret and returns the new one.
func (v *View) Rotate(ctx context.Context, name, secret string, overlap time.Duration, who string) (string, error) {
	full, err := v.toChange(name)
	if err != nil {
		return "", err
	}
	return v.relay.Rotate(ctx, full, secret, overlap, who)
}

// RotateSigningKey replaces a webhook's signing key; if key is empty, by a new one.
func (v *View) RotateSigningKey(ctx context.Context, name, key string, overlap time.Duration, who string) error {
	full, err := v.toChange(name)
	if err != nil {
		return err
	}
	return v.relay.RotateSigningKey(ctx, full, key, overlap, who)
}

// Delete removes a webhook and returns how many waiting deliveries it cancelled.
func (v *View) Delete(ctx context.Context, name, who string) (ended int64, _ error) {
	full, err := v.toChange(name)
	if err != nil {
		return 0, err
	}
	return v.relay.Delete(ctx, full, who)
}

// Enable queues new events for a webhook again and releases held deliveries.
func (v *View) Enable(ctx context.Context, name, who string) error {
	full, err := v.toChange(name)
	if err != nil {
		return err
	}
	return v.relay.Enable(ctx, full, who)
}

// Disable stops queueing new events for a webhook and holds waiting deliveries.
func (v *View) Disable(ctx context.Context, name, who string) error {
	full, err := v.toChange(name)
	if err != nil {
		return err
	}
	return v.relay.Disable(ctx, full, who)
}

// Redeliver gives one delivery a fresh ladder, due now.
func (v *View) Redeliver(ctx context.Context, id queue.DeliveryID, who string) error {
	if err := v.mayChange(); err != nil {
		return err
	}
	if err := v.Reader().hasDelivery(ctx, id); err != nil {
		return err
	}
	return v.relay.Redeliver(ctx, id, who)
}

// Requeue gives one of many deliveries a fresh ladder, due now, and returns its webhook.
func (v *View) Requeue(ctx context.Context, id queue.DeliveryID) (webhook string, err error) {
	if err := v.mayChange(); err != nil {
		return "", err
	}
	if err := v.Reader().hasDelivery(ctx, id); err != nil {
		return "", err
	}
	return v.relay.Requeue(ctx, id)
}

// Note adds a line to the activity log. Its webhook is known by its name in the scope, or
// by one that Requeue has returned. Without projects, the line belongs to those of the
// webhook or, if there is none of this name, of the scope.
func (v *View) Note(a relay.Activity) {
	if w, ok := v.find(a.Webhook); ok {
		a.Webhook = w.Name
	} else if a.Projects == nil {
		a.Projects = v.Projects()
	}
	v.relay.Note(a)
}

// Go runs do in a goroutine that the end of the relay waits for. It reports false if the
// relay does not run.
func (v *View) Go(do func()) bool { return v.relay.Go(do) }

// Shared reports whether several relays work on the store.
func (v *View) Shared() bool { return v.relay.Queue().Node() != "" }

// Recover requeues what a webhook did not get, and returns the count.
func (v *View) Recover(ctx context.Context, name string, what relay.Recovery, who string) (int64, error) {
	if err := v.mayChange(); err != nil && !what.DryRun {
		return 0, err
	}
	w, ok := v.find(name)
	if !ok {
		return 0, fmt.Errorf("webhook %q: %w", name, queue.ErrNotFound)
	}
	return v.relay.Recover(ctx, w.Name, what, who)
}

// Recoverable finds what a webhook did not get, and passes it on.
func (v *View) Recoverable(ctx context.Context, name string, what relay.Recovery, found func(int64), send func([]queue.DeliveryID) error) error {
	full, err := v.toChange(name)
	if err != nil {
		return err
	}
	return v.relay.Recoverable(ctx, full, what, found, send)
}

// Test sends the documented sample to a webhook now.
func (v *View) Test(ctx context.Context, name string) (relay.TestResult, error) {
	full, err := v.toChange(name)
	if err != nil {
		return relay.TestResult{}, err
	}
	return v.relay.Test(ctx, full)
}

// Try does what Test does for a webhook that does not exist yet.
func (v *View) Try(ctx context.Context, c relay.WebhookConfig) (relay.TestResult, error) {
	if err := v.mayChange(); err != nil {
		return relay.TestResult{}, err
	}
	if err := v.Prepare(&c); err != nil {
		return relay.TestResult{}, fmt.Errorf("%w: %w", relay.ErrInvalid, err)
	}
	return v.relay.Try(ctx, c)
}

// Preview returns what a body makes of the sample and of the newest feedback that a
// webhook with these projects gets.
func (v *View) Preview(ctx context.Context, name string, projects []string, body string) ([]relay.Preview, error) {
	if err := v.mayChange(); err != nil {
		return nil, err
	}
	if v.Scoped() && (len(projects) == 0 || !v.hasAll(projects)) {
		projects = v.Projects()
	}
	return v.relay.Preview(ctx, name, projects, body)
}

// Erase removes feedback of the scope for good.
func (v *View) Erase(ctx context.Context, what relay.Erasure, who string) (relay.Erased, error) {
	if err := v.mayChange(); err != nil && !what.DryRun {
		return relay.Erased{}, err
	}
	if what.Filter == "" && !v.hasProject(what.Feedback.Project) {
		return relay.Erased{}, fmt.Errorf("%s: %w", what.Feedback, queue.ErrNotFound)
	}
	if v.Scoped() && what.Compact {
		return relay.Erased{}, fmt.Errorf("%w: compact: the store is shared with other projects; ask whoever runs the relay", relay.ErrInvalid)
	}
	if v.Scoped() {
		what.Counts = v.hasWebhook
	}
	what.Projects = v.Projects()
	return v.relay.Erase(ctx, what, who)
}
