package smtp

import (
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"
	"time"

	"github.com/userhero/relay/relay/notify"
)

// messageID returns the Message-ID of the mail with these notices, without the angle
// brackets of RFC 5322 §3.6.4. It depends on what the notices are about, not on their
// order or on when or how often they are sent. If a crash causes a mail to be sent
// again, it has the same Message-ID, and mail systems can show it once.
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

// noticeID returns the Message-ID of a mail about this notice alone, with the given
// kind.
func noticeID(n notify.Notice, kind, domain string) string {
	parts := []string{n.Thread} // not the name, which may change within an episode
	if n.Thread == "" {
		parts = []string{n.Webhook, n.At.UTC().Format(time.RFC3339Nano)}
	}
	if n.To != "" {
		parts = append(parts, n.To)
	}
	return digest(kind, parts...) + "@" + domain
}

// digest hashes the parts, each with a terminator, so that different lists give
// different input. Strangers see Message-IDs: a hash does not reveal ids.
func digest(kind string, parts ...string) string {
	h := sha256.New()
	for _, part := range append([]string{kind}, parts...) {
		_, _ = h.Write([]byte(strings.ReplaceAll(part, "\x00", "\x00\x01")))
		_, _ = h.Write([]byte{0, 0})
	}
	return "userhero." + base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:18])
}

// threadHeaders returns In-Reply-To and References for the mail with the Message-ID
// self (RFC 5322 §3.6.4), as lists in angle brackets. They are empty if there is
// nothing to refer to.
//
// The root of an episode is the mail about the failure. A recovery replies to it. A
// mail about several webhooks belongs to several threads and names the roots of all of
// them. Mail programs group mails that name the same root, even if no mail with that
// Message-ID was ever sent.
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
