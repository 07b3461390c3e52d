package relay

import (
	"reflect"
	"regexp"
	"strings"
	"sync"
)

// reconfiguration is what a generation of settings did to one webhook.
type reconfiguration struct {
	webhook *webhook
	before  *target // nil: it was parked, or nothing was in force yet
	parked  bool    // before
	created bool
}

// noteReconfigured writes what a generation of settings changed into the
// activity log. What the file said before a restart is not known, so changes
// that were made while the relay was down show only where a webhook came or
// went.
func (r *Relay) noteReconfigured(all []reconfiguration) {
	var notes sync.WaitGroup // a thousand webhooks share a few commits
	for _, c := range all {
		after := c.webhook.aim()
		a := activity{Who: FromCaddyfile, Webhook: c.webhook.name}
		switch {
		case c.created:
			a.What, a.Detail = "webhook added", after.Host()
		case after == nil && !c.parked:
			a.What, a.Detail = "webhook parked", "it has left the configuration; what waits for it is held"
		case after != nil && c.parked:
			a.What, a.Detail = "webhook returned", "what waited for it goes out"
		case after != nil && c.before != nil:
			if a.Detail = changedSettings(c.before.config, after.config); a.Detail != "" {
				a.What = "webhook changed"
			}
		}
		if a.What != "" {
			notes.Go(func() { r.note(a) })
		}
	}
	notes.Wait()
}

var wordEnd = regexp.MustCompile(`([a-z])([A-Z])`)

// changedSettings names the settings that differ, without their values, which
// may be secrets.
func changedSettings(a, b WebhookConfig) string {
	var names []string
	before, after := reflect.ValueOf(a), reflect.ValueOf(b)
	for _, f := range reflect.VisibleFields(before.Type()) {
		if !reflect.DeepEqual(before.FieldByIndex(f.Index).Interface(), after.FieldByIndex(f.Index).Interface()) {
			names = append(names, strings.ToLower(wordEnd.ReplaceAllString(f.Name, "$1 $2")))
		}
	}
	return strings.Join(names, ", ")
}
