package relay

import (
	"fmt"

	"github.com/userhero/relay/relay/deliver"
	"github.com/userhero/relay/relay/expression"
)

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
