package body

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/userhero/relay/event"
)

// card is what every message says, in the words of no chat tool. All texts are clean: see
// clean.
type card struct {
	title  string
	text   string
	mood   mood
	fields []field
	links  []link
	image  string // an http or https URL; empty if there is none
	at     string // RFC 3339; empty if unknown
}

// mood is how urgent a message looks.
type mood int

const (
	neutral mood = iota
	good
	bad
)

type field struct{ name, value string }

type link struct{ name, url string }

const (
	// maxMetadata is how many members of metadata a message has.
	maxMetadata = 4
	// maxFields bounds the fields of a message: Slack allows ten in a section.
	maxFields = 10
	// maxURL bounds a link. Discord takes URLs of up to 2,048 characters.
	maxURL = 2000
	// noText stands for a text of which nothing is left.
	noText = "(no text)"
)

// document is the part of an event's document that messages show.
type document struct {
	Timestamp string `json:"timestamp"`
	Data      struct {
		ProjectID  string         `json:"projectId"`
		Message    string         `json:"message"`
		Category   string         `json:"category"`
		Rating     int            `json:"rating"`
		Status     string         `json:"status"`
		Screenshot string         `json:"screenshotUrl"`
		Metadata   map[string]any `json:"metadata"`
		Context    struct {
			PageURL        string `json:"pageUrl"`
			Browser        string `json:"browser"`
			BrowserVersion string `json:"browserVersion"`
			OS             string `json:"os"`
			Country        string `json:"country"`
		} `json:"context"`

		// Members of operational events.
		Webhook    string `json:"webhook"`
		URL        string `json:"url"`
		Since      string `json:"since"`
		Reason     string `json:"reason"`
		ConsoleURL string `json:"consoleUrl"`
	} `json:"data"`
}

func newCard(e Event) (card, error) {
	var d document
	if err := json.Unmarshal(e.Document, &d); err != nil {
		return card{}, fmt.Errorf("the event cannot be read: %w", err)
	}
	if e.Type.Operational() {
		return operationalCard(e.Type, d), nil
	}
	c := card{title: "New feedback", text: d.Data.Message, at: d.Timestamp, image: webURL(d.Data.Screenshot)}
	if e.Type == event.Updated {
		c.title = "Feedback updated"
	}
	if d.Data.Category != "" {
		c.title += ": " + d.Data.Category
	}
	switch {
	case d.Data.Rating == 0:
	case d.Data.Rating <= 2:
		c.mood = bad
	case d.Data.Rating >= 4:
		c.mood = good
	}
	if d.Data.Rating > 0 {
		c.add("Rating", strconv.Itoa(d.Data.Rating)+" of 5")
	}
	if e.Type == event.Updated || d.Data.Status != "new" {
		c.add("Status", d.Data.Status)
	}
	c.add("Project", d.Data.ProjectID)
	c.add("Page", d.Data.Context.PageURL)
	browser := strings.TrimSpace(d.Data.Context.Browser + " " + d.Data.Context.BrowserVersion)
	if browser != "" && d.Data.Context.OS != "" {
		browser += " on "
	}
	c.add("Browser", browser+d.Data.Context.OS)
	c.add("Country", d.Data.Context.Country)
	shown := 0
	for _, name := range slices.Sorted(maps.Keys(d.Data.Metadata)) {
		if value, ok := scalar(d.Data.Metadata[name]); ok && shown < maxMetadata {
			c.add(cmp.Or(clean(name, false), "metadata"), value)
			shown++
		}
	}
	c.link("Open in the console", e.Link)
	c.link("Screenshot", c.image)
	return c.cleaned(), nil
}

// scalar returns a value of metadata as text, unless it is a list, an object or null.
func scalar(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case float64:
		return string(event.AppendNumber(nil, v)), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}

func operationalCard(t event.Type, d document) card {
	name := strconv.Quote(d.Data.Webhook)
	c := card{at: d.Timestamp, mood: bad}
	since := "Failing since"
	switch t {
	case event.WebhookFailing:
		c.title, c.text = "Webhook "+name+" is failing", "A delivery ran out of retries. New feedback is still accepted, and its deliveries wait."
	case event.WebhookRecovered:
		c.title, c.text, c.mood = "Webhook "+name+" works again", "The waiting deliveries are being sent now.", good
		since = "Failed since"
	case event.WebhookDisabled:
		c.title, c.text = "Webhook "+name+" is disabled", "Its receiver answered 410 Gone. Enable it when the receiver is ready."
		since = "Since"
	}
	c.add("Sends to", d.Data.URL)
	if at, err := time.Parse(time.RFC3339, d.Data.Since); err == nil {
		c.add(since, at.UTC().Format("2006-01-02 15:04:05 UTC"))
	}
	c.add("Last answer", d.Data.Reason)
	c.link("Open in the console", d.Data.ConsoleURL)
	return c.cleaned()
}

// add adds a field, unless the value is empty.
func (c *card) add(name, value string) {
	if value = clean(value, false); value != "" && len(c.fields) < maxFields {
		c.fields = append(c.fields, field{name, value})
	}
}

// link adds a link, unless the URL is empty or cannot be linked to.
func (c *card) link(name, to string) {
	if to = webURL(to); to != "" {
		c.links = append(c.links, link{name, to})
	}
}

// cleaned returns the card with clean title and text.
func (c card) cleaned() card {
	c.title, c.text = clean(c.title, false), cmp.Or(clean(c.text, true), noText)
	if _, err := time.Parse(time.RFC3339, c.at); err != nil {
		c.at = ""
	}
	return c
}

// webURL returns an http or https URL in ASCII, without what markup could begin with. It
// returns "" for all other texts, and for URLs that are too long.
func webURL(text string) string {
	u, err := url.Parse(strings.TrimSpace(text))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return ""
	}
	var b strings.Builder
	for _, c := range []byte(u.String()) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("<>\"'`|()[]*\\^{}", c) >= 0 {
			fmt.Fprintf(&b, "%%%02X", c)
			continue
		}
		b.WriteByte(c)
	}
	if b.Len() > maxURL {
		return ""
	}
	return b.String()
}
