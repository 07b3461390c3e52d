package relay

import (
	"context"
	"reflect"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/notify"
)

// follow puts the changes of other relays on the store into force, until the lanes end.
func (r *Relay) follow() {
	r.queue.Watch(r.lanes, func(s queue.Webhook, deleted bool) {
		if r.attachMu.lock(r.lanes) != nil {
			return
		}
		defer r.attachMu.Unlock()
		if err := r.adopt(s, deleted); err != nil && r.lanes.Err() == nil {
			r.log.Error("what another relay has changed of a webhook is not in force here", "webhook", s.Name, "error", err)
		}
	})
}

// adopt puts a webhook's stored record into force. Another relay may have written it. The
// caller holds r.attachMu.
func (r *Relay) adopt(s queue.Webhook, deleted bool) error {
	r.mu.RLock()
	w := r.byID[s.ID]
	r.mu.RUnlock()
	switch {
	case deleted:
		if w != nil {
			w.quit()
			r.forget(w)
		}
		return nil
	case notify.IsMailbox(s.Name):
		return nil
	case s.Name == tallyRecord:
		return r.adoptTally(s)
	case w == nil:
		rec, err := decodeRecord(s)
		if err != nil {
			return err
		}
		w = newWebhook(r, s, rec)
		r.begin(w)
		defer w.compareNow()
	default:
		if err := w.follow(s); err != nil {
			return err
		}
	}
	return r.retarget(w)
}

// follow adopts a newer record.
func (w *webhook) follow(s queue.Webhook) error {
	if err := w.storeLock.lock(w.relay.lanes); err != nil { // its holders give up after storeTime
		return err
	}
	defer w.storeLock.unlock()
	if s.Revision <= w.stored.Revision {
		return nil // this relay's own, or merged already
	}
	w.parked = s.Expires
	if err := w.adopt(s); err != nil {
		return err
	}
	w.compare()
	return nil
}

// compareNow calls compare. The caller does not hold storeLock.
func (w *webhook) compareNow() {
	if w.storeLock.lock(w.relay.lanes) == nil {
		defer w.storeLock.unlock()
		w.compare()
	}
}

// retarget compiles a webhook's settings if they differ from those in force. If the webhook
// comes from another relay's configuration file and is not in this relay's file, it gets no
// target here. It is not parked, because the other relays still deliver to it. The caller
// holds r.attachMu.
func (r *Relay) retarget(w *webhook) error {
	r.mu.RLock()
	g := r.current
	r.mu.RUnlock()
	if g == nil {
		return nil // Attach compiles it
	}
	c := w.apiConfig()
	if c == nil {
		for i := range g.config.Webhooks {
			if g.config.Webhooks[i].Name == w.name() {
				c = &g.config.Webhooks[i]
			}
		}
	}
	if c == nil {
		return nil
	}
	if t := w.currentTarget(); t != nil && reflect.DeepEqual(t.config, c.complete(g.config)) {
		return nil
	}
	t, err := g.target(*c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.lanes, storeTime)
	defer cancel()
	return w.configure(ctx, t)
}

// attach notes in the record which settings of the configuration file are in force, so
// that relays notice if theirs differ. It reports whether the record has changed. The
// caller holds storeLock.
func (w *webhook) attach(t *target) bool {
	if !w.relay.shared || t == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.difference = ""
	if w.record.Config != nil {
		return false
	}
	before := w.record.Settings
	w.record.Settings = settingsOf(t.config)
	return w.record.Settings != before
}

// hasSettings reports whether another relay has attached these settings last.
func (w *webhook) hasSettings(t *target) bool {
	if t == nil || !w.relay.shared {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.record.Settings == settingsOf(t.config)
}

// compare logs if the settings of the webhook in another relay's configuration file differ
// from those in this relay's file. It changes nothing, because the files differ for a moment
// while a change is rolled out. The caller holds storeLock.
func (w *webhook) compare() {
	w.mu.Lock()
	before := w.difference
	w.difference = ""
	switch t := w.target; {
	case w.record.Config != nil:
	case t == nil && !w.parked:
		w.difference = "another relay has it in its configuration, and this one does not: it gets no events that this relay accepts"
	case t != nil && w.parked:
		w.difference = "another relay no longer has it in its configuration, and this one does"
	case t != nil && w.record.Settings != settingsOf(t.config):
		w.difference = "another relay has other settings for it in its configuration"
	}
	after := w.difference
	w.mu.Unlock()
	if after != "" && after != before {
		w.relay.log.Warn("the configurations of the relays differ; give all of them the same", "webhook", w.name(), "difference", after)
	}
}
