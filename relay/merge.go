package relay

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"reflect"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/tally"
)

// Several relays may work on one store. Each holds the records of the webhooks in
// memory and writes them with compare-and-set. A relay whose write was refused reads
// what another one has written, merges it with its own changes, and writes again.

// merge returns the record with this relay's changes and those of others. base is what
// the store held when this relay read or wrote the record last, and theirs is what it
// holds now.
func (rec record) merge(base, theirs record) record {
	merged := theirs
	if rec.Config != nil && base.Config != nil && theirs.Config != nil {
		merged.Config = mergeConfig(*base.Config, *rec.Config, *theirs.Config)
	}
	// A person's decision, or a 410, outlives what an attempt has shown at the same time.
	stopped := theirs.State == Disabled && base.State != Disabled
	if changed := rec.State != base.State || !rec.FailingSince.Equal(base.FailingSince); changed && !stopped {
		merged.State, merged.Reason, merged.FailingSince, merged.DisabledSince = rec.State, rec.Reason, rec.FailingSince, rec.DisabledSince
	}
	if !rec.Episode.Equal(base.Episode) && !stopped {
		merged.Episode = rec.Episode
	}
	if rec.LastNotice.At.After(theirs.LastNotice.At) {
		merged.LastNotice = rec.LastNotice
	}
	if rec.Settings != base.Settings {
		merged.Settings = rec.Settings
	}
	if rec.LastSuccess.After(theirs.LastSuccess) {
		merged.LastSuccess = rec.LastSuccess
	}
	if rec.LastAttempt.After(theirs.LastAttempt) {
		merged.LastAttempt, merged.LastAnswer = rec.LastAttempt, rec.LastAnswer
	}
	if !rec.HeldUntil.Equal(base.HeldUntil) {
		merged.HeldUntil = rec.HeldUntil
	}
	merged.Stored = tally.Merge(base.Stored, rec.Stored, theirs.Stored)
	return merged
}

// mergeConfig takes each setting that ours changed from ours, and the others from
// theirs.
func mergeConfig(base, ours, theirs WebhookConfig) *WebhookConfig {
	from, to, was := reflect.ValueOf(ours), reflect.ValueOf(&theirs).Elem(), reflect.ValueOf(base)
	for _, f := range reflect.VisibleFields(to.Type()) {
		if mine := from.FieldByIndex(f.Index); !reflect.DeepEqual(mine.Interface(), was.FieldByIndex(f.Index).Interface()) {
			to.FieldByIndex(f.Index).Set(mine)
		}
	}
	return &theirs
}

// asStored returns the record as the store would return it.
func (rec record) asStored(name string) record {
	stored, err := decodeRecord(queue.Webhook{Name: name, Data: rec.encode()})
	if err != nil {
		panic(err) // what encode returns can be decoded
	}
	return stored
}

// settingsOf returns a short text that differs if settings differ, secrets included.
func settingsOf(c WebhookConfig) string {
	data, err := json.Marshal(struct {
		WebhookConfig
		WarnAfter time.Duration
		Disabled  bool
	}{c, c.WarnAfter, c.Disabled})
	if err != nil {
		panic(err) // strings, numbers and times always marshal
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}
