package smtp

import (
	"fmt"
	"html/template"
	netmail "net/mail"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/wneessen/go-mail"

	"github.com/userhero/relay/relay/notify"
)

// compose makes one mail about all notices, as plain text with an HTML alternative of
// the same content.
func (n *Notifier) compose(notices []notify.Notice, to []*netmail.Address) (*mail.Msg, error) {
	entries := make([]entry, len(notices))
	for i, notice := range notices {
		if err := validate(notice); err != nil {
			return nil, err
		}
		entries[i] = entryOf(notice)
	}
	page := page{Title: subject(notices), Entries: entries}
	var html strings.Builder
	if err := htmlPage.Execute(&html, page); err != nil {
		return nil, fmt.Errorf("writing the mail's HTML: %w", err)
	}

	id := messageID(notices, n.domain)
	m := mail.NewMsg(mail.WithNoDefaultUserAgent())
	m.FromMailAddress(n.from)
	m.ToMailAddress(to...)
	m.Subject(page.Title)
	m.SetDateWithValue(n.now())
	m.SetMessageIDWithValue(id)
	m.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834 §5: no auto-responder answers it
	m.SetGenHeader(mail.HeaderXAutoResponseSuppress, "All")
	inReplyTo, references := threadHeaders(notices, id, n.domain)
	if inReplyTo != "" {
		m.SetGenHeader(mail.HeaderInReplyTo, inReplyTo)
	}
	if references != "" {
		m.SetGenHeader(mail.HeaderReferences, references)
	}
	m.SetBodyString(mail.TypeTextPlain, page.text())
	m.AddAlternativeString(mail.TypeTextHTML, html.String())
	return m, nil
}

// states describes each kind of notice in plain words, for one webhook and for several.
var states = map[string]struct{ one, many string }{
	notify.Failing:   {"is failing", "are failing"},
	notify.Recovered: {"works again", "work again"},
	notify.Disabled:  {"is disabled", "are disabled"},
	notify.Warning:   {"has trouble", "have trouble"},
}

// subject names all webhooks if they fit: `Webhook "crm" is failing`, `3 webhooks work
// again: crm, mail, wiki`, `2 webhooks are failing, 1 works again`.
func subject(notices []notify.Notice) string {
	const product = "UserHero Relay: "
	if len(notices) == 1 {
		return product + "webhook " + strconv.Quote(oneLine(notices[0].Webhook, maxName)) + " " + states[notices[0].Kind].one
	}
	names := make(map[string][]string)
	for _, notice := range notices {
		names[notice.Kind] = append(names[notice.Kind], oneLine(notice.Webhook, maxName))
	}
	var parts []string
	for _, kind := range []string{notify.Failing, notify.Disabled, notify.Warning, notify.Recovered} {
		count := len(names[kind])
		if count == 0 {
			continue
		}
		what := " webhooks "
		if len(parts) > 0 {
			what = " "
		} else if count == 1 {
			what = " webhook "
		}
		state := states[kind].many
		if count == 1 {
			state = states[kind].one
		}
		part := strconv.Itoa(count) + what + state
		if len(names) == 1 {
			part += ": " + strings.Join(names[kind], ", ")
		}
		parts = append(parts, part)
	}
	return product + oneLine(strings.Join(parts, ", "), 150)
}

// page is the content of a mail, for both forms. Each text in it is one line.
type page struct {
	Title   string
	Entries []entry
}

type entry struct {
	Heading string
	Facts   []fact
	Advice  string
	Links   []link
}

type link struct{ Label, URL string }

type fact struct{ Label, Value string }

func entryOf(n notify.Notice) entry {
	name := oneLine(n.Webhook, maxName)
	e := entry{Heading: "Webhook " + strconv.Quote(name) + " " + states[n.Kind].one + "."}
	add := func(label, value string) {
		if value != "" {
			e.Facts = append(e.Facts, fact{label, value})
		}
	}
	reason := reasonLine(n.Reason)
	add("Sends to", publicURL(n.URL))
	switch n.Kind {
	case notify.Failing:
		add("Failing since", moment(earlier(n.Since, n.At)))
		add("Last answer", reason)
		e.Advice = "A delivery ran out of retries. It is kept as failed: send it again in the console or with “caddy userhero redeliver”. " +
			"New feedback is still accepted, and its deliveries wait. The relay sends one delivery at a time to check the receiver. " +
			"When the receiver answers with a 2xx status, the waiting deliveries are sent."
	case notify.Recovered:
		add("Works since", moment(n.At))
		if !n.Since.IsZero() && n.At.After(n.Since) {
			add("Failed for", n.At.Sub(n.Since).Round(time.Second).String())
		}
		add("Last answer", reason)
		e.Advice = "The waiting deliveries are being sent now. Deliveries that ran out of retries stay failed: " +
			"send them again in the console or with “caddy userhero redeliver”."
	case notify.Disabled:
		add("Disabled at", moment(n.At))
		add("Reason", reason)
		e.Advice = "New events are not queued for it, and its waiting deliveries are held. When the receiver is ready, enable the webhook " +
			"in the console or with “caddy userhero enable”. Then send what it missed."
	case notify.Warning:
		add("Failing since", moment(earlier(n.Since, n.At)))
		add("Last answer", reason)
		e.Advice = "Nothing is lost: the relay tries again. If a delivery runs out of retries, you get another mail."
	}
	if n.Changes > 0 {
		add("Changes", fmt.Sprintf("its state changed %d more %s since the last mail", n.Changes, plural(n.Changes, "time", "times")))
	}
	if n.Console != "" {
		console := strings.TrimSuffix(n.Console, "/")
		webhook := console + "/webhooks/" + url.PathEscape(name)
		e.Links = []link{{"Webhook", webhook}}
		if n.Kind == notify.Failing || n.Kind == notify.Recovered {
			e.Links = append(e.Links, link{"Failed deliveries", console + "/events?" + url.Values{"webhook": {name}, "state": {"failed"}}.Encode()})
		}
		e.Links = append(e.Links, link{"Settings", webhook + "/settings"})
	}
	return e
}

func (p page) text() string {
	var b strings.Builder
	for i, e := range p.Entries {
		if i > 0 {
			b.WriteString("\n----\n\n")
		}
		b.WriteString(e.Heading + "\n\n")
		for _, f := range e.Facts {
			fmt.Fprintf(&b, "  %-15s %s\n", f.Label, f.Value)
		}
		b.WriteString("\n" + e.Advice + "\n")
		if len(e.Links) > 0 {
			b.WriteString("\n")
		}
		for _, l := range e.Links {
			fmt.Fprintf(&b, "  %s: %s\n", l.Label, l.URL)
		}
	}
	b.WriteString("\n-- \n" + footer + "\n")
	return b.String()
}

const footer = "You get this mail because UserHero Relay is configured to notify this address (“notify”)."

var htmlPage = template.Must(template.New("mail").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{.Title}}</title></head>
<body style="font-family:sans-serif;line-height:1.5">
{{range $i, $e := .Entries}}{{if $i}}<hr>
{{end}}<h2 style="font-size:1.1em">{{$e.Heading}}</h2>
<table>
{{range $e.Facts}}<tr><th align="left" valign="top" style="padding-right:1em">{{.Label}}</th><td>{{.Value}}</td></tr>
{{end}}</table>
<p>{{$e.Advice}}</p>
{{with $e.Links}}<p>{{range $j, $l := .}}{{if $j}} · {{end}}<a href="{{$l.URL}}">{{$l.Label}}</a>{{end}}</p>
{{end}}{{end}}<p style="color:#666;font-size:.85em">` + footer + `</p>
</body></html>
`))

// moment writes a time in a form that is the same in every time zone.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// earlier returns since, or at if since is unknown.
func earlier(since, at time.Time) time.Time {
	if since.IsZero() {
		return at
	}
	return since
}

func plural(count int, one, many string) string {
	if count == 1 {
		return one
	}
	return many
}
