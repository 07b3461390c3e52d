package telemetry

import (
	"sync"

	"github.com/userhero/relay/relay"
)

const (
	// maxLabels is the largest number of webhooks, or projects, with a label of their
	// own. It bounds the number of series: a webhook has about 50, most of them buckets.
	maxLabels = 200
	// otherLabel is the label of all others. No webhook can have this name.
	otherLabel = relay.OtherProjects
)

// boundedLabels gives each webhook, or project, its value of a label: the first
// maxLabels get their name, the others get otherLabel. Each keeps its label until it is
// forgotten.
type boundedLabels struct {
	mu    sync.RWMutex // guards names
	names map[string]bool
}

// of returns the label of a name.
func (l *boundedLabels) of(name string) string {
	l.mu.RLock()
	known, full := l.names[name], len(l.names) >= maxLabels
	l.mu.RUnlock()
	switch {
	case known:
		return name
	case full || name == otherLabel:
		return otherLabel
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.names) >= maxLabels && !l.names[name] {
		return otherLabel
	}
	if l.names == nil {
		l.names = make(map[string]bool)
	}
	l.names[name] = true
	return name
}

// forget frees a label for another name. It reports whether the name had a label of its
// own.
func (l *boundedLabels) forget(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	had := l.names[name]
	delete(l.names, name)
	return had
}
