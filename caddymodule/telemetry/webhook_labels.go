package telemetry

import "sync"

const (
	// maxWebhookLabels bounds the series that webhooks make: each has about 50,
	// most of them buckets.
	maxWebhookLabels = 200
	// otherWebhooks is the label of those beyond; no webhook can have that name.
	otherWebhooks = "_other"
)

// webhookLabels gives each webhook its value of the label "webhook": its name
// while there is a place, and it keeps the place until it is deleted.
type webhookLabels struct {
	mu    sync.RWMutex // guards names
	names map[string]bool
}

// of is a webhook's label.
func (l *webhookLabels) of(webhook string) string {
	l.mu.RLock()
	known, full := l.names[webhook], len(l.names) >= maxWebhookLabels
	l.mu.RUnlock()
	switch {
	case known:
		return webhook
	case full:
		return otherWebhooks
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.names) >= maxWebhookLabels && !l.names[webhook] {
		return otherWebhooks
	}
	if l.names == nil {
		l.names = make(map[string]bool)
	}
	l.names[webhook] = true
	return webhook
}

// forget frees the place of a webhook, and tells whether it had one.
func (l *webhookLabels) forget(webhook string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	had := l.names[webhook]
	delete(l.names, webhook)
	return had
}
