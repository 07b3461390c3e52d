package jetstreamqueue

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/userhero/relay/queue"
)

// The oldest server version that has everything the queue needs.
const leastMajor, leastMinor = 2, 12

// formatVersion is written into every stream's metadata. A stream of a later format
// is refused.
const formatVersion = 1

// keyWindow is how long an idempotency key is kept.
const keyWindow = 24 * time.Hour

// names makes the names of streams and subjects, which all begin with one prefix.
type names struct{ prefix string }

// The streams, by what they hold.
func (n names) events() string   { return n.prefix + "_events" }   // events
func (n names) state() string    { return n.prefix + "_state" }    // records, cursors, activities, caught submissions
func (n names) registry() string { return n.prefix + "_registry" } // webhooks, the store's tag
func (n names) keys() string     { return n.prefix + "_keys" }     // idempotency keys
func (n names) locks() string    { return n.prefix + "_locks" }    // owners of lanes

func (n names) event(id queue.FeedbackID) string {
	return n.prefix + ".e." + token(id.Project) + "." + token(id.ID)
}
func (n names) anyProject(id string) string { return n.prefix + ".e.*." + token(id) }
func (n names) ownEvent() string            { return n.prefix + ".o" }

// passedOver is the subject of messages that a restore writes for numbers without an event,
// and removes at its end. It is the subject of no feedback: see token.
func (n names) passedOver() string { return n.prefix + ".e.%.%-" }

func (n names) record(w queue.WebhookID, seq uint64) string {
	return n.records(w) + strconv.FormatUint(seq, 10)
}
func (n names) records(w queue.WebhookID) string { return n.prefix + ".d." + number(w) + "." }
func (n names) recordsOf(seq uint64) string {
	return n.prefix + ".d.*." + strconv.FormatUint(seq, 10)
}
func (n names) cursor(w queue.WebhookID) string  { return n.prefix + ".l." + number(w) }
func (n names) activity() string                 { return n.prefix + ".a" }
func (n names) caught() string                   { return n.prefix + ".h" }
func (n names) sweep() string                    { return n.prefix + ".s" }
func (n names) webhook(w queue.WebhookID) string { return n.prefix + ".w." + number(w) }
func (n names) tag() string                      { return n.prefix + ".m.tag" }
func (n names) backup() string                   { return n.prefix + ".m.backup" }
func (n names) key(name string) string           { return n.prefix + ".k." + hashed(name) }
func (n names) erasedKey(name string) string     { return n.prefix + ".ke." + hashed(name) }
func (n names) erasedKeyOf(key string) string {
	return n.prefix + ".ke." + strings.TrimPrefix(key, n.prefix+".k.")
}
func (n names) erased(hash [32]byte) string {
	return n.prefix + ".z." + base32Lower.EncodeToString(hash[:])
}
func (n names) erasing() string                   { return n.prefix + ".y" }
func (n names) redacted(seq uint64) string        { return n.prefix + ".q." + strconv.FormatUint(seq, 10) }
func (n names) keptLogs(w queue.WebhookID) string { return n.prefix + ".g." + number(w) }
func (n names) keptLog(w queue.WebhookID, cursor uint64) string {
	return n.keptLogs(w) + "." + strconv.FormatUint(cursor, 10)
}
func (n names) lock(name string) string { return n.prefix + ".x." + name }

// restoring is the subject on which a restore answers, from its beginning to its end.
func (n names) restoring() string { return n.prefix + ".restoring" }

// Subjects on which relays talk to each other. No stream holds them.
func (n names) peers() string               { return n.prefix + ".peers.>" }
func (n names) released(name string) string { return n.prefix + ".peers.released." + name }
func (n names) wanted() string              { return n.prefix + ".peers.wanted" }
func (n names) told() string                { return n.prefix + ".peers.told" }
func (n names) outcomes() string            { return n.prefix + ".peers.outcomes" }

func number(w queue.WebhookID) string { return strconv.FormatUint(uint64(w), 10) }

// delivery reads the subject of a record.
func (n names) delivery(subject string) (w queue.WebhookID, seq uint64, ok bool) {
	rest, ok := strings.CutPrefix(subject, n.prefix+".d.")
	if !ok {
		return 0, 0, false
	}
	webhook, number, _ := strings.Cut(rest, ".")
	id, err1 := strconv.ParseUint(webhook, 10, 32)
	seq, err2 := strconv.ParseUint(number, 10, 64)
	return queue.WebhookID(id), seq, err1 == nil && err2 == nil
}

// webhookOf reads the subject of a cursor or of a webhook record.
func (n names) webhookOf(kind, subject string) (w queue.WebhookID, ok bool) {
	rest, ok := strings.CutPrefix(subject, n.prefix+kind)
	id, err := strconv.ParseUint(rest, 10, 32)
	return queue.WebhookID(id), ok && err == nil
}

// streams returns the configuration of the streams that the queue needs. A restore makes
// them in this order, so a relay that finds the first one knows of the restore. The stream
// of events is the last.
func (q *Queue) streams() []jetstream.StreamConfig {
	stream := func(name, holds string, subjects ...string) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Name: name, Description: "UserHero Relay: " + holds, Subjects: subjects,
			Storage: q.o.storage, Replicas: q.o.Replicas, Retention: jetstream.LimitsPolicy,
			MaxConsumers: -1, MaxMsgs: -1, MaxBytes: -1, MaxMsgSize: -1, MaxMsgsPerSubject: -1,
			Discard: jetstream.DiscardNew, Duplicates: 2 * time.Minute, AllowDirect: true,
			Compression: jetstream.NoCompression,
			Metadata:    map[string]string{"userhero.format": strconv.Itoa(formatVersion)},
		}
	}
	events := stream(q.names.events(), "events", q.names.prefix+".e.*.*", q.names.ownEvent())
	if q.o.MaxBytes > 0 {
		events.MaxBytes = q.o.MaxBytes
	}
	state := stream(q.names.state(), "deliveries and activities",
		q.names.prefix+".d.*.*", q.names.prefix+".l.*", q.names.activity(), q.names.caught(), q.names.sweep(),
		q.names.prefix+".z.*", q.names.erasing(), q.names.prefix+".g.*.*", q.names.prefix+".q.*")
	registry := stream(q.names.registry(), "webhooks", q.names.prefix+".w.*", q.names.prefix+".m.*")
	registry.MaxMsgsPerSubject = 1
	registry.Discard = jetstream.DiscardOld // a newer record replaces the older one
	keys := stream(q.names.keys(), "idempotency keys", q.names.prefix+".k.*", q.names.prefix+".ke.*")
	// A key's claim stays beside what it was bound to, so that an erasure can overwrite it.
	keys.MaxMsgsPerSubject, keys.MaxAge, keys.Discard = 2, keyWindow, jetstream.DiscardOld
	locks := stream(q.names.locks(), "owners of lanes", q.names.prefix+".x.*")
	locks.MaxMsgsPerSubject, locks.MaxAge, locks.Discard = 1, q.o.LockTTL, jetstream.DiscardOld
	locks.Duplicates = min(locks.Duplicates, locks.MaxAge)
	return []jetstream.StreamConfig{registry, state, keys, locks, events}
}

// prepareStreams makes missing streams and checks existing ones. It does not change an
// existing stream, because an operator may have changed it on purpose.
func (q *Queue) prepareStreams(ctx context.Context) error {
	for _, want := range q.streams() {
		if err := q.prepareStream(ctx, want); err != nil {
			return err
		}
	}
	return nil
}

func (q *Queue) prepareStream(ctx context.Context, want jetstream.StreamConfig) error {
	return q.insist(ctx, "preparing stream "+want.Name, func(ctx context.Context) error {
		s, err := q.js.Stream(ctx, want.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			if _, err := q.nc.RequestWithContext(ctx, q.names.restoring(), nil); err == nil {
				return fmt.Errorf("%w: a backup is being restored into the streams of %s; wait for the restore", queue.ErrUnavailable, q.names.prefix)
			}
			// If another relay makes the stream at the same time, CreateStream succeeds for
			// the same settings and fails for others.
			if s, err = q.js.CreateStream(ctx, want); errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
				s, err = q.js.Stream(ctx, want.Name)
			}
		}
		if err != nil {
			return err
		}
		have := s.CachedInfo().Config
		if have.Compression != jetstream.NoCompression {
			q.o.Logger.Warn("a stream is compressed; after a server is killed such a stream may stop taking messages",
				"stream", want.Name, "remedy", "nats stream edit "+want.Name+" --compression=none")
		}
		return checkStream(have, want)
	})
}

// errStream is returned if a stream has settings that the queue cannot work with.
var errStream = errors.New("the stream has other settings than the queue needs")

// checkStream returns an error if a stream has wrong settings. The error explains what to
// do.
func checkStream(have, want jetstream.StreamConfig) error {
	format, err := strconv.Atoi(have.Metadata["userhero.format"])
	if err != nil {
		return fmt.Errorf("%w: stream %s was not made by this relay; choose another prefix, or remove the stream", errStream, want.Name)
	}
	if have.Metadata[restoring] != "" {
		return fmt.Errorf("%w: stream %s is not restored completely; wait for the restore, or restore again", queue.ErrUnavailable, want.Name)
	}
	if format > formatVersion {
		return fmt.Errorf("%w: stream %s has format %d, and this version knows formats up to %d; install a newer version", errStream, want.Name, format, formatVersion)
	}
	type setting struct {
		name       string
		have, want any
		edit       string
	}
	edit := "nats stream edit " + want.Name + " "
	for _, s := range []setting{
		{"subjects", strings.Join(slices.Sorted(slices.Values(have.Subjects)), ","), strings.Join(slices.Sorted(slices.Values(want.Subjects)), ","), edit + "--subjects=" + strings.Join(want.Subjects, ",")},
		{"storage", have.Storage, want.Storage, "restore a backup into a stream that is stored in files"},
		{"retention", have.Retention, want.Retention, "restore a backup into a stream that keeps messages by limits"},
		{"discard policy", have.Discard, want.Discard, edit + "--discard=" + strings.ToLower(strings.TrimPrefix(want.Discard.String(), "Discard"))},
		{"maximum age", have.MaxAge, want.MaxAge, edit + "--max-age=" + want.MaxAge.String()},
		{"maximum of messages", have.MaxMsgs, want.MaxMsgs, edit + "--max-msgs=-1"},
		{"maximum of messages per subject", have.MaxMsgsPerSubject, want.MaxMsgsPerSubject, edit + "--max-msgs-per-subject=" + strconv.FormatInt(want.MaxMsgsPerSubject, 10)},
		{"direct access", have.AllowDirect, want.AllowDirect, edit + "--allow-direct"},
		{"denial of deletions", have.DenyDelete, false, "make the stream anew: this setting cannot be changed"},
		{"denial of purges", have.DenyPurge, false, "make the stream anew: this setting cannot be changed"},
	} {
		if s.have != s.want {
			return fmt.Errorf("%w: the %s of stream %s is %v, and must be %v; %s", errStream, s.name, want.Name, s.have, s.want, s.edit)
		}
	}
	return nil
}

// tags are the random numbers in the store's event ids. A store that was restored from a
// backup has a new one for new events, because the other store may have given the next
// sequence numbers too.
type tags []tag

// tag is one of a store's tags.
type tag struct {
	From uint64 `json:"from"` // the first sequence number that has the tag
	Tag  uint32 `json:"tag"`
}

// newTag makes a tag for all sequence numbers from `from` on.
func newTag(from uint64) tag {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return tag{from, binary.BigEndian.Uint32(b[:])}
}

// of returns the tag of an event.
func (t tags) of(seq uint64) (of uint32) {
	for _, one := range t {
		if one.From > seq {
			break
		}
		of = one.Tag
	}
	return of
}

// with returns the tags with that of one more event.
func (t tags) with(seq uint64, of uint32) tags {
	if len(t) == 0 || t.of(seq) != of {
		t = append(t, tag{seq, of})
	}
	return t
}

// checkServer refuses servers that are too old.
func (q *Queue) checkServer() error {
	version := q.nc.ConnectedServerVersion()
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, err1 := strconv.Atoi(major)
	b, err2 := strconv.Atoi(minor)
	if err1 != nil || err2 != nil || a < leastMajor || a == leastMajor && b < leastMinor {
		return fmt.Errorf("nats-server %s at %s is too old: the relay needs %d.%d or newer", version, q.nc.ConnectedUrlRedacted(), leastMajor, leastMinor)
	}
	return nil
}

// longToken is the length of the longest name that a subject holds in full.
const longToken = 200

// token returns a name as one token of a subject. Letters, digits, '-' and '_' stay as they
// are; any other byte becomes '=' and two hexadecimal digits. The empty name becomes '%',
// and a name that is too long becomes '%' and a hash. Two names never have the same token.
func token(name string) string {
	if name == "" {
		return "%"
	}
	if len(name) > longToken {
		return "%" + hashed(name)
	}
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
			b.WriteByte(c)
		default:
			b.Write([]byte{'=', digits[c>>4], digits[c&15]})
		}
	}
	return b.String()
}

var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// hashed returns the SHA-256 of a name as one token of a subject.
func hashed(name string) string {
	sum := sha256.Sum256([]byte(name))
	return base32Lower.EncodeToString(sum[:])
}
