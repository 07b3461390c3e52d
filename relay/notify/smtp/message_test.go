package smtp_test

import (
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/relay/notify"
)

// sent is a mail as its recipients get it.
type sent struct {
	mail.Header
	Subject, Text, HTML, Raw string
}

// deliver sends notices through a real server and returns the mail that arrives.
func deliver(t *testing.T, console string, notices ...notify.Notice) sent {
	t.Helper()
	server := serve(t)
	config := server.config()
	notices = slices.Clone(notices)
	for i := range notices {
		notices[i].Console = console
	}
	if err := notifier(t, config).Notify(t.Context(), notices); err != nil {
		t.Fatal(err)
	}
	raw, message := server.only(t)
	subject, err := new(mime.WordDecoder).DecodeHeader(message.Header.Get("Subject"))
	if err != nil {
		t.Fatal(err)
	}
	got := sent{Header: message.Header, Subject: subject, Raw: raw.Raw}
	kind, parameters, err := mime.ParseMediaType(message.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/alternative" {
		t.Fatalf("Content-Type %q: %v", message.Header.Get("Content-Type"), err)
	}
	parts := multipart.NewReader(message.Body, parameters["boundary"])
	for {
		part, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if encoding := part.Header.Get("Content-Transfer-Encoding"); encoding != "quoted-printable" {
			t.Fatalf("a part is encoded as %q", encoding)
		}
		body, err := io.ReadAll(quotedprintable.NewReader(part))
		if err != nil {
			t.Fatal(err)
		}
		switch kind, _, _ := mime.ParseMediaType(part.Header.Get("Content-Type")); kind {
		case "text/plain":
			got.Text = strings.ReplaceAll(string(body), "\r\n", "\n")
		case "text/html":
			got.HTML = string(body)
		default:
			t.Fatalf("a part of type %q", kind)
		}
	}
	return got
}

func TestMailSaysWhatHappenedInTextAndHTML(t *testing.T) {
	t.Parallel()
	got := deliver(t, "https://relay.example.com/console", failingCRM)
	if want := `UserHero Relay: webhook "crm" is failing`; got.Subject != want {
		t.Errorf("subject %q, want %q", got.Subject, want)
	}
	for _, want := range []string{
		"https://crm.example.com/hooks/userhero", "2026-11-23 10:30:00 UTC", "http_503: Service Unavailable",
		"https://relay.example.com/console/webhooks/crm", "https://relay.example.com/console/webhooks/crm/settings",
	} {
		if !strings.Contains(got.Text, want) {
			t.Errorf("the text lacks %q:\n%s", want, got.Text)
		}
		if !strings.Contains(got.HTML, want) {
			t.Errorf("the HTML lacks %q:\n%s", want, got.HTML)
		}
	}
	for header, want := range map[string]string{
		"Auto-Submitted": "auto-generated", "Date": "Tue, 24 Nov 2026 14:00:00 +0000",
		"From": `"UserHero Relay" <relay@example.com>`, "To": "<ops@example.com>",
	} {
		if value := got.Get(header); value != want {
			t.Errorf("%s: %q, want %q", header, value, want)
		}
	}
	for line := range strings.SplitSeq(got.Raw, "\r\n") {
		if len(line) > 998 { // RFC 5322 §2.1.1
			t.Errorf("a line of %d characters", len(line))
		}
	}
}

func TestSubjectSaysItInPlainWords(t *testing.T) {
	t.Parallel()
	of := func(kind, name string) notify.Notice {
		return notify.Notice{Kind: kind, Webhook: name, Thread: name}
	}
	for want, notices := range map[string][]notify.Notice{
		`webhook "crm" works again`:    {of(notify.Recovered, "crm")},
		`webhook "crm" is disabled`:    {of(notify.Disabled, "crm")},
		`webhook "crm" has trouble`:    {of(notify.Warning, "crm")},
		`webhook "größe" is failing`:   {of(notify.Failing, "größe")},
		"2 webhooks are failing: a, b": {of(notify.Failing, "a"), of(notify.Failing, "b")},
		"1 webhook is failing, 2 work again": {
			of(notify.Recovered, "a"), of(notify.Failing, "b"), of(notify.Recovered, "c"),
		},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			if got := deliver(t, "", notices...); got.Subject != "UserHero Relay: "+want {
				t.Errorf("subject %q, want %q", got.Subject, "UserHero Relay: "+want)
			}
		})
	}
}

func TestGroupTellsEveryNoticeInOneMail(t *testing.T) {
	t.Parallel()
	notices := make([]notify.Notice, 300)
	for i := range notices {
		notices[i] = notify.Notice{Kind: notify.Failing, Webhook: "webhook-" + strings.Repeat("x", i%70) + string(rune('a'+i%26)), Thread: strings.Repeat("t", i+1)}
	}
	got := deliver(t, "", notices...)
	if count := strings.Count(got.Text, " is failing."); count != len(notices) {
		t.Errorf("%d notices in the text, want %d", count, len(notices))
	}
	if len(got.Subject) > 200 {
		t.Errorf("a subject of %d bytes", len(got.Subject))
	}
	if count := len(strings.Fields(got.Get("References"))); count != len(notices) {
		t.Errorf("%d references, want %d", count, len(notices))
	}
	for line := range strings.SplitSeq(got.Raw, "\r\n") {
		if len(line) > 998 {
			t.Errorf("a line of %d characters", len(line))
		}
	}
}

func TestRecoveryAnswersTheFailureOfItsEpisode(t *testing.T) {
	t.Parallel()
	recovered := failingCRM
	recovered.Kind, recovered.At = notify.Recovered, recovered.At.Add(time.Hour)
	other := failingCRM
	other.Webhook, other.Thread = "billing", "dl_2"
	next := failingCRM
	next.Thread = "dl_3"

	failure := deliver(t, "", failingCRM)
	root := failure.Get("Message-Id")
	if root == "" || failure.Get("References") != "" || failure.Get("In-Reply-To") != "" {
		t.Fatalf("the failure: Message-ID %q, References %q, In-Reply-To %q", root, failure.Get("References"), failure.Get("In-Reply-To"))
	}
	if _, err := mail.ParseAddress(root); err != nil || !strings.HasSuffix(root, "@example.com>") {
		t.Errorf("Message-ID %q is no identity in the sender's domain: %v", root, err)
	}
	recovery := deliver(t, "", recovered)
	if recovery.Get("In-Reply-To") != root || recovery.Get("References") != root || recovery.Get("Message-Id") == root {
		t.Errorf("the recovery: Message-ID %q, In-Reply-To %q, References %q, want an answer to %q",
			recovery.Get("Message-Id"), recovery.Get("In-Reply-To"), recovery.Get("References"), root)
	}
	if id := deliver(t, "", next).Get("Message-Id"); id == root {
		t.Error("the next episode has the identity of this one")
	}

	group, reversed := deliver(t, "", failingCRM, other), deliver(t, "", other, failingCRM)
	if group.Get("Message-Id") != reversed.Get("Message-Id") || group.Get("Message-Id") == root {
		t.Errorf("the group's Message-IDs: %q and %q", group.Get("Message-Id"), reversed.Get("Message-Id"))
	}
	if !slices.Contains(strings.Fields(group.Get("References")), root) {
		t.Errorf("the group's References %q lack %q, which the recovery names", group.Get("References"), root)
	}
	warning := failingCRM
	warning.Kind = notify.Warning
	if got := deliver(t, "", warning); got.Get("References") != root || got.Get("In-Reply-To") != "" {
		t.Errorf("the warning: References %q, In-Reply-To %q", got.Get("References"), got.Get("In-Reply-To"))
	}
}

func TestTextsCannotAddHeadersOrMarkup(t *testing.T) {
	t.Parallel()
	evil := "crm\r\nBcc: thief@example.net\r\n\r\n<script>alert(1)</script>\u202e\x00\u2028Evil: 1"
	for _, kind := range []string{notify.Failing, notify.Recovered, notify.Disabled, notify.Warning} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			got := deliver(t, "", notify.Notice{
				Kind: kind, Webhook: evil, URL: "https://x.example/" + evil, Reason: evil + "\r\n.\r\nMAIL FROM:<x>", Thread: evil,
				At: time.Now(),
			})
			known := []string{"Auto-Submitted", "Content-Type", "Date", "From", "In-Reply-To", "Message-Id", "Mime-Version", "References", "Subject", "To", "X-Auto-Response-Suppress"}
			for header, values := range got.Header {
				if !slices.Contains(known, header) || len(values) != 1 {
					t.Errorf("header %s: %q was not asked for", header, values)
				}
			}
			if strings.ContainsAny(got.Subject, "\r\n\u202e\x00\u2028") {
				t.Errorf("the subject %q has controls in it", got.Subject)
			}
			for line := range strings.SplitSeq(got.Text, "\n") {
				if strings.HasPrefix(line, "Bcc:") || strings.HasPrefix(line, "Evil:") {
					t.Errorf("a text begins a line of its own: %q", line)
				}
			}
			if strings.Contains(got.HTML, "<script") {
				t.Error("markup came through")
			}
		})
	}
}

func TestMailHasNoSecretPartOfAURL(t *testing.T) {
	t.Parallel()
	const secret = "canary"
	notice := failingCRM
	notice.URL = "https://canary-user:canary-pass@crm.example.com/hook?token=canary-query#canary-fragment"
	notice.Reason = `Post "https://canary-user:canary-pass@crm.example.com/hook?token=canary-query": EOF (see HTTPS://x.example/?canary-more).`
	got := deliver(t, "", notice)
	for _, text := range []string{got.Subject, got.Text, got.HTML, got.Raw} {
		if strings.Contains(text, secret) {
			t.Errorf("a secret came through:\n%s", text)
		}
	}
	if !strings.Contains(got.Text, "https://crm.example.com/hook\n") || !strings.Contains(got.Text, `Post "https://crm.example.com/hook": EOF (see https://x.example/).`) {
		t.Errorf("more than the secrets was taken out:\n%s", got.Text)
	}
	notice.URL, notice.Reason = "https://canary:canary@ [not a URL]/?canary", "http_500"
	if got := deliver(t, "", notice); strings.Contains(got.Raw, secret) {
		t.Errorf("a URL that does not parse came through:\n%s", got.Text)
	}
}

func TestNoticesThatMakeNoMailAreRefusedForGood(t *testing.T) {
	t.Parallel()
	n := notifier(t, plain("127.0.0.1:1")) // a dial error would be temporary
	for _, notice := range []notify.Notice{{Kind: "exploded", Webhook: "crm"}, {Kind: notify.Failing}, {}} {
		if e := failed(t, n.Notify(t.Context(), []notify.Notice{notice})); e.Temporary() {
			t.Errorf("%+v: temporary: %v", notice, e)
		}
	}
}
