package telemetry

import "sync"

const (
	// maxWebhookLabels is the largest number of webhooks with a label of their own.
	// It bounds the number of series: a webhook has about 50, most of them buckets.
	maxWebhookLabels = 200
	// otherWebhooks is the label of all other webhooks. No webhook can have this
	// name.
	otherWebhooks = "_other"
)

// webhookLabels gives each webhook its value of the label "webhook": the first
// maxWebhookLabels webhooks get their name, the others get otherWebhooks. A webhook
// keeps its label until it is forgotten.
type webhookLabels struct {
	mu    sync.RWMutex // guards names
	names map[string]bool
}

// of returns a webhook's label.
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

// forget frees a webhook's label for another webhook. It reports whether the webhook
// had a label of its own.
func (l *webhookLabels) forget(webhook string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	had := l.names[webhook]
	delete(l.names, webhook)
	return had
}
