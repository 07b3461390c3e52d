package smtp

import (
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"
	"time"

	"github.com/userhero/relay/relay/notify"
)

// messageID identifies the mail that carries these notices, without the angle
// brackets of RFC 5322 §3.6.4. It depends on what the notices are about and not
// on when or how often they are sent, nor on their order: a mail that was sent
// again, because a crash came before its success was written down, carries the
// identity of the first, and mail systems that look at it show one.
func messageID(notices []notify.Notice, domain string) string {
	if len(notices) == 1 {
		return noticeID(notices[0], notices[0].Kind, domain)
	}
	ids := make([]string, len(notices))
	for i, n := range notices {
		ids[i] = noticeID(n, n.Kind, domain)
	}
	slices.Sort(ids)
	return digest("group", ids...) + "@" + domain
}

// noticeID is the identity of the mail about one notice, had it the given kind.
func noticeID(n notify.Notice, kind, domain string) string {
	thread := n.Thread
	if thread == "" {
		thread = n.At.UTC().Format(time.RFC3339Nano)
	}
	return digest(kind, n.Webhook, thread) + "@" + domain
}

// digest hashes the parts, each ended so that no two lists of parts run
// together. Message-IDs go to strangers: a hash tells them nothing about ids.
func digest(kind string, parts ...string) string {
	h := sha256.New()
	for _, part := range append([]string{kind}, parts...) {
		_, _ = h.Write([]byte(strings.ReplaceAll(part, "\x00", "\x00\x01")))
		_, _ = h.Write([]byte{0, 0})
	}
	return "userhero." + base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:18])
}

// threadHeaders are the In-Reply-To and the References of the mail with the
// identity self (RFC 5322 §3.6.4), as lists in angle brackets; empty if there
// is none.
//
// An episode's root is the mail that says that it fails. A recovery answers it.
// A mail about several webhooks belongs to several conversations, so it names
// the roots of all of them; whether or not a mail with such an identity was ever
// sent by itself, mail programs gather what names the same root.
func threadHeaders(notices []notify.Notice, self, domain string) (inReplyTo, references string) {
	var answered, named []string
	for _, n := range notices {
		root := "<" + noticeID(n, notify.Failing, domain) + ">"
		if root == "<"+self+">" {
			continue
		}
		if !slices.Contains(named, root) {
			named = append(named, root)
		}
		if n.Kind == notify.Recovered && !slices.Contains(answered, root) {
			answered = append(answered, root)
		}
	}
	return strings.Join(answered, " "), strings.Join(named, " ")
}
