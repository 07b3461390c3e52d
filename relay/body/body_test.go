package body

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/userhero/relay/event"
)

// nasty are texts that break messages, mention people or look like markup.
var nasty = []string{
	"@everyone", "@here", "@channel", "<!channel>", "<!here>", "<!everyone|everyone>", "<@U012AB3CD>", "<@!123456789012345678>", "<@&42>", "<#C024BE7LR>",
	"<!subteam^SAZ94GDB8>", "<at>Jane Doe</at>", "<at id=\"0\">x</at>", "&lt;!channel&gt;", "&amp;", "&", "<", ">", "<<<<>>>>", "</script><script>alert(1)</script>",
	"[click me](https://evil.example)", "<https://evil.example|your bank>", "![x](https://evil.example/x.png)", "**bold** __under__ ~~gone~~ `code` ```\nblock\n``` ||spoiler||",
	"# heading\n> quote\n- list\n1. one", "\\", "\\\\\\\\@everyone", `"quoted" 'text'`, "{{=1+1}}", "${jndi:ldap://x}", "{\"a\":1}", "<:smile:123>", "<t:1700000000:R>", ":smile:",
	"مرحبا بالعالم", "שלום עולם", "\u202eevil\u202c", "\u2066hidden\u2069", "\u200f\u200e", "日本語のフィードバックです。", "한국어", "ไทยไม่มีช่องว่าง",
	"👩‍👩‍👧‍👦👍🏽🇩🇪🏴󠁧󠁢󠁥󠁮󠁧󠁿", "e\u0301\u0301\u0301", "Z" + strings.Repeat("\u0300\u0336\u0489", 60), "\u0000\u0001\u001b[31m", "\ufeff", "\u200b\u200b", "\u2028\u2029", "\u0085",
	"\r\n\r\n\r\n", "\t\t", "   ", "𝕬𝖇𝖈", "\U0010ffff", "\ufffd", "https://example.com/a_b_c?x=1&y=2#z", "http://[::1]/", "https://x/@everyone", "javascript:alert(1)",
}

// words joins random nasty texts, repeated to some length.
func words(r *rand.Rand) string {
	var b strings.Builder
	for n := 1 + r.IntN(12); n > 0; n-- {
		b.WriteString(strings.Repeat(nasty[r.IntN(len(nasty))], 1+r.IntN(3)*r.IntN(60)))
		if r.IntN(3) > 0 {
			b.WriteByte(' ')
		}
	}
	if r.IntN(8) == 0 {
		return strings.Repeat(b.String(), 1+20_000/max(b.Len(), 1))
	}
	return b.String()
}

// feedback returns the document of a random hostile feedback.
func feedback(t *testing.T, r *rand.Rand) (event.Type, []byte) {
	t.Helper()
	some := func(v any) any {
		if r.IntN(4) == 0 {
			return nil
		}
		return v
	}
	metadata := map[string]any{}
	for i := range r.IntN(8) {
		metadata[string([]rune(words(r))[:1])+fmt.Sprint(i)] = []any{words(r), 1.5, true, nil, []int{1}}[r.IntN(5)]
	}
	shot := "https://cdn.example.com/" + strings.Repeat("a_b&<", r.IntN(20)) + "?x=|y|#<z>"
	if r.IntN(10) == 0 {
		shot += strings.Repeat("long", 700)
	}
	in := map[string]any{
		"message": "m " + words(r), "category": some(words(r)), "projectId": some(words(r)), "widgetId": some(words(r)), "status": some("s" + words(r)),
		"rating": some(1 + r.IntN(5)), "screenshotUrl": some(shot), "metadata": some(metadata),
		"context": some(map[string]any{"pageUrl": some(words(r)), "browser": some(words(r)), "browserVersion": some("120"), "os": some(words(r)), "country": some(words(r))}),
	}
	if r.IntN(3) == 0 {
		in["message"] = words(r)
	}
	written, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	f, err := event.Parse(written)
	if err != nil { // a message of white space alone
		in["message"] = "x"
		written, _ = json.Marshal(in)
		if f, err = event.Parse(written); err != nil {
			t.Fatalf("%v: %s", err, written)
		}
	}
	f.Complete(time.Unix(1767799800, 0), event.NewID)
	kind := event.Types()[r.IntN(2)]
	document, err := f.Document(kind, time.Unix(1767799800, 0))
	if err != nil { // too large
		return feedback(t, r)
	}
	return kind, document
}

// utf16Len counts as JavaScript does.
func utf16Len(s string) int { return len(utf16.Encode([]rune(s))) }

type object = map[string]any

// texts calls f for each string of a JSON value, with its path.
func texts(v any, path string, f func(path, text string)) {
	switch v := v.(type) {
	case string:
		f(path, v)
	case []any:
		for _, e := range v {
			texts(e, path+"/*", f)
		}
	case object:
		for name, e := range v {
			texts(e, path+"/"+name, f)
		}
	}
}

var slackLink = regexp.MustCompile(`^<https?://[!-;=?-{}~]+\|[A-Za-z ]+>(  ·  <https?://[!-;=?-{}~]+\|[A-Za-z ]+>)*$`)

func checkSlack(m object) (wrong []string) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if n := utf16Len(m["text"].(string)); n == 0 || n > 4000 {
		bad("text has %d characters", n)
	}
	blocks := m["blocks"].([]any)
	if len(blocks) == 0 || len(blocks) > 50 {
		bad("%d blocks", len(blocks))
	}
	text := func(o object, most int) {
		s := o["text"].(string)
		if n := utf16Len(s); n == 0 || n > most {
			bad("a text of %d characters, at most %d", n, most)
		}
		switch {
		case o["type"] == "plain_text":
			if o["emoji"] != false {
				bad("emoji are written out of visitors' texts")
			}
		case o["verbatim"] != true || !slackLink.MatchString(s):
			bad("mrkdwn that is no list of links: %s", s)
		}
	}
	for _, b := range blocks {
		b := b.(object)
		t, has := b["text"].(object)
		switch b["type"] {
		case "header":
			text(t, 150)
		case "section":
			fields, _ := b["fields"].([]any)
			if !has && len(fields) == 0 || len(fields) > 10 {
				bad("a section with %d fields", len(fields))
			}
			if has {
				text(t, 3000)
			}
			for _, f := range fields {
				text(f.(object), 2000)
			}
		default:
			bad("a block of type %v", b["type"])
		}
	}
	loose := regexp.MustCompile(`&(?:[^alg]|a[^m]|[lg][^t]|$)`)
	texts(m, "", func(path, s string) {
		if strings.HasPrefix(s, "<http") && slackLink.MatchString(s) {
			return
		}
		if strings.ContainsAny(s, "<>") || loose.MatchString(s) {
			bad("%s is not escaped: %q", path, s)
		}
	})
	return wrong
}

func checkDiscord(m object) (wrong []string) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if parse, ok := m["allowed_mentions"].(object)["parse"].([]any); !ok || len(parse) != 0 {
		bad("mentions are allowed: %v", m["allowed_mentions"])
	}
	embeds := m["embeds"].([]any)
	if len(embeds) == 0 || len(embeds) > 10 {
		bad("%d embeds", len(embeds))
	}
	sum := 0
	bounded := func(v any, most int) {
		s, _ := v.(string)
		n := utf16Len(s)
		if sum += n; n == 0 || n > most || strings.TrimSpace(strings.ReplaceAll(s, "\u200b", "")) == "" {
			bad("a text of %d characters, at most %d: %q", n, most, s)
		}
	}
	for _, e := range embeds {
		e := e.(object)
		bounded(e["title"], 256)
		bounded(e["description"], 4096)
		fields, _ := e["fields"].([]any)
		if len(fields) > 25 {
			bad("%d fields", len(fields))
		}
		for _, f := range fields {
			bounded(f.(object)["name"], 256)
			bounded(f.(object)["value"], 1024)
		}
		for _, u := range []any{e["url"], e["image"]} {
			if o, ok := u.(object); ok {
				u = o["url"]
			}
			if s, ok := u.(string); ok && (len(s) > 2048 || !strings.HasPrefix(s, "http")) {
				bad("a URL that Discord refuses: %s", s)
			}
		}
	}
	if sum > 6000 {
		bad("%d characters in all", sum)
	}
	mention := regexp.MustCompile(`@(everyone|here)|(^|[^\\])(\\\\)*<[@#:t/]|(^|[^\\])(\\\\)*\]\(`)
	texts(m, "", func(path, s string) {
		if !strings.HasSuffix(path, "url") && mention.MatchString(s) {
			bad("%s mentions or links: %q", path, s)
		}
	})
	return wrong
}

func checkTeams(m object, size int) (wrong []string) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if size > 28<<10 {
		bad("%d bytes", size)
	}
	if m["type"] != "message" {
		bad("type %v", m["type"])
	}
	for _, a := range m["attachments"].([]any) {
		a := a.(object)
		if a["contentType"] != "application/vnd.microsoft.card.adaptive" {
			bad("content type %v", a["contentType"])
		}
		card := a["content"].(object)
		if card["type"] != "AdaptiveCard" || card["msteams"].(object)["entities"] != nil {
			bad("a card with entities: %v", card["msteams"])
		}
		for _, e := range card["body"].([]any) {
			switch e := e.(object); e["type"] {
			case "RichTextBlock":
				for _, run := range e["inlines"].([]any) {
					if run.(object)["type"] != "TextRun" || run.(object)["text"] == "" {
						bad("a run %v", run)
					}
				}
			case "Image":
			default:
				bad("an element of type %v may have markup", e["type"])
			}
		}
	}
	texts(m, "", func(path, s string) {
		if strings.Contains(strings.ToLower(s), "<at") {
			bad("%s mentions: %q", path, s)
		}
	})
	return wrong
}

// TestMessagesKeepTheLimitsOfTheirServices makes messages of many hostile feedbacks.
func TestMessagesKeepTheLimitsOfTheirServices(t *testing.T) {
	t.Parallel()
	// The messages are as large as they may be, so each costs milliseconds. A long run makes
	// others each time.
	feedbacks, seed := hostile, uint64(2)
	if soak, _ := strconv.Atoi(os.Getenv("SOAK")); soak > 0 {
		feedbacks, seed = 3000*soak, rand.Uint64()
	}
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(1, seed))
	checks := map[string]func(m object, size int) []string{
		"slack":   func(m object, _ int) []string { return checkSlack(m) },
		"discord": func(m object, _ int) []string { return checkDiscord(m) },
		"teams":   checkTeams,
	}
	largest := map[string]int{}
	for n := range feedbacks {
		kind, document := feedback(t, r)
		e := Event{Type: kind, Document: document, Webhook: "chat", Link: "https://feedback.example.com/relay/events/evt_" + fmt.Sprint(n)}
		if n%5 == 0 {
			e.Link = ""
		}
		for name, check := range checks {
			b, err := Compile(name)
			if err != nil {
				t.Fatal(err)
			}
			made, mediaType, err := b.Make(e)
			if err != nil || mediaType != JSON || !utf8.Valid(made) {
				t.Fatalf("%s of %s: %v, %s", name, document, err, mediaType)
			}
			if n%10 == 0 {
				if again, _, _ := b.Make(e); !bytes.Equal(made, again) {
					t.Fatalf("%s makes other bytes the second time", name)
				}
			}
			if canonical, err := event.Canonical(made); err != nil || !bytes.Equal(canonical, made) {
				t.Fatalf("%s makes JSON that is not canonical: %s", name, made)
			}
			var m object
			if err := json.Unmarshal(made, &m); err != nil {
				t.Fatal(err)
			}
			largest[name] = max(largest[name], len(made))
			if wrong := check(m, len(made)); len(wrong) > 0 {
				t.Fatalf("%s, feedback %d:\n%s\nof %s\nis %s", name, n, strings.Join(wrong, "\n"), document, made)
			}
			if e.Link != "" && !bytes.Contains(made, []byte(e.Link)) {
				t.Errorf("%s does not link to the console", name)
			}
			texts(m, "", func(path, s string) {
				if strings.ContainsFunc(s, func(r rune) bool {
					return r < ' ' && r != '\n' || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
				}) {
					t.Errorf("%s: %s holds control characters: %q", name, path, s)
				}
			})
		}
	}
	t.Logf("largest messages: %v bytes", largest)
}

// TestChecksFindWhatIsWrong is the control of the test above.
func TestChecksFindWhatIsWrong(t *testing.T) {
	t.Parallel()
	const text = `"<!channel> @everyone <at>x</at>"`
	for name, wrong := range map[string][]string{
		"slack":   checkSlack(parsed(t, `{"text":`+text+`,"blocks":[{"type":"header","text":{"type":"plain_text","emoji":false,"text":"`+strings.Repeat("x", 151)+`"}}]}`)),
		"discord": checkDiscord(parsed(t, `{"allowed_mentions":{"parse":[]},"embeds":[{"title":"x","description":`+text+`,"fields":[{"name":" ","value":"x"}]}]}`)),
		"teams": checkTeams(parsed(t, `{"type":"message","attachments":[{"contentType":"application/vnd.microsoft.card.adaptive","content":
			{"type":"AdaptiveCard","msteams":{},"body":[{"type":"RichTextBlock","inlines":[{"type":"TextRun","text":`+text+`}]}]}}]}`), 28<<10+1),
	} {
		if len(wrong) < 2 {
			t.Errorf("the check of %s finds %q", name, wrong)
		}
	}
}

func parsed(t *testing.T, text string) (m object) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestClippedTextsEndBetweenCharacters(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"ae\u0301ae\u0301ae\u0301", "👩‍👩‍👧‍👦👩‍👩‍👧‍👦", "👍🏽👍🏽👍🏽"} {
		for most := 1; most <= units(text); most++ {
			got := clip(clusters(text), most)
			rest, cut := strings.CutSuffix(got, "…")
			if units(got) > most || got != text && !cut {
				t.Errorf("%q cut to %d is %q", text, most, got)
			}
			for p := range clusters(text) {
				rest = strings.TrimPrefix(rest, p)
			}
			if rest != "" {
				t.Errorf("%q cut to %d is %q, which ends within a character", text, most, got)
			}
		}
	}
}

// TestMessagesSayWhatPeopleNeed pins the messages of the documented sample.
func TestMessagesSayWhatPeopleNeed(t *testing.T) {
	t.Parallel()
	document := []byte(`{"event":"feedback.created","timestamp":"2026-01-07T15:30:00Z","data":{"id":"fb_abc123","projectId":"proj_xyz","message":"It does\nnothing & <fails>",` +
		`"category":"bug","rating":2,"status":"new","screenshotUrl":"https://example.com/s.png","context":{"pageUrl":"/dashboard","browser":"Chrome","browserVersion":"120","os":"macOS"},` +
		`"metadata":{"userId":"user_123"}}}`)
	failing := []byte(`{"event":"webhook.failing","timestamp":"2026-01-07T15:30:00Z","data":{"webhook":"crm","url":"https://crm.example.com/hooks",` +
		`"since":"2026-01-07T14:00:00Z","reason":"answered 500 Internal Server Error","consoleUrl":"https://feedback.example.com/relay/webhooks/crm"}}`)
	for name, want := range map[string][]string{
		"slack":   {"New feedback: bug", `It does\nnothing &amp; &lt;fails&gt;`, "Rating: 2 of 5", "Page: /dashboard", "Browser: Chrome 120 on macOS", "userId: user_123", "<https://example.com/s.png|Screenshot>", "<https://c.example/e|Open in the console>"},
		"discord": {"New feedback: bug", `It does\nnothing & \\<fails\\>`, `"name":"Rating","value":"2 of 5"`, `"image":{"url":"https://example.com/s.png"}`, `"url":"https://c.example/e"`},
		"teams":   {"New feedback: bug", `"text":"It does"`, "nothing & <\u200bfails>", "2 of 5", `"type":"Image","url":"https://example.com/s.png"`, `{"type":"Action.OpenUrl","title":"Open in the console","url":"https://c.example/e"}`},
	} {
		b, err := Compile(" " + name + "\n")
		if err != nil {
			t.Fatal(err)
		}
		made, _, err := b.Make(Event{Type: event.Created, Document: document, Link: "https://c.example/e"})
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(string(made), w) {
				t.Errorf("%s lacks %s: %s", name, w, made)
			}
		}
		made, _, err = b.Make(Event{Type: event.WebhookFailing, Document: failing})
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range []string{`Webhook \"crm\" is failing`, "2026", "14:00:00 UTC", "answered 500 Internal Server Error", "https://feedback.example.com/relay/webhooks/crm"} {
			if !strings.Contains(strings.ReplaceAll(string(made), `\\-`, "-"), w) {
				t.Errorf("%s lacks %s: %s", name, w, made)
			}
		}
	}
}

func TestBodiesOfOneOwn(t *testing.T) {
	t.Parallel()
	document := []byte(`{"event":"feedback.created","timestamp":"2026-01-07T15:30:00Z","data":{"message":"hello"}}`)
	for source, want := range map[string]string{"": string(document), `{"text": data.message}`: `{"text":"hello"}`, `data.message`: "hello"} {
		b, err := Compile(source)
		if err != nil {
			t.Fatal(err)
		}
		made, mediaType, err := b.Make(Event{Type: event.Created, Document: document})
		if err != nil || string(made) != want || (mediaType == Text) != (want == "hello") {
			t.Errorf("%q makes %s as %s, %v", source, made, mediaType, err)
		}
		operational := []byte(`{"event":"webhook.failing","data":{}}`)
		if made, _, err := b.Make(Event{Type: event.WebhookFailing, Document: operational}); err != nil || !bytes.Equal(made, operational) {
			t.Errorf("%q makes %s of an operational event, %v; want it as it is", source, made, err)
		}
	}
	if _, err := Compile("slak"); err == nil || !strings.Contains(err.Error(), "discord, slack, teams") {
		t.Errorf("a misspelt preset gives %v", err)
	}
}
