package body

import (
	"encoding/json"
	"strings"
)

// Limits of Teams: a message that a workflow posts has at most some 28 KB, with its texts,
// images and links (https://learn.microsoft.com/connectors/teams, "Known issues and
// limitations with actions"), as a message to an incoming webhook
// (https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/add-incoming-webhook).
// "Format your bot messages" counts in UTF-16, in which ASCII takes twice the bytes, so a
// message has at most teamsUnits of UTF-16, and people have seen messages of 21 KB refused
// (https://www.rubydoc.info/gems/msteams_hermes/MsTeamsHermes/Message).
const (
	teamsBytes = 20_000
	teamsUnits = 14_000
	teamsTitle = 200
	teamsText  = 4000
	teamsLines = 40
	teamsName  = 60
	teamsValue = 200
)

// teamsMessage is what a workflow with the trigger "When a Teams webhook request is
// received" posts: an Adaptive Card.
type teamsMessage struct {
	Type        string            `json:"type"`
	Attachments []teamsAttachment `json:"attachments"`
}

type teamsAttachment struct {
	ContentType string    `json:"contentType"`
	Content     teamsCard `json:"content"`
}

type teamsCard struct {
	Schema  string         `json:"$schema"`
	Type    string         `json:"type"`
	Version string         `json:"version"`
	Body    []teamsElement `json:"body"`
	Actions []teamsAction  `json:"actions,omitempty"`
	Teams   teamsOptions   `json:"msteams"`
}

type teamsOptions struct {
	Width string `json:"width"`
}

// teamsElement is a RichTextBlock, which has no markup, or an Image.
type teamsElement struct {
	Type    string     `json:"type"`
	Inlines []teamsRun `json:"inlines,omitempty"`
	URL     string     `json:"url,omitempty"`
	AltText string     `json:"altText,omitempty"`
	Spacing string     `json:"spacing,omitempty"`
}

type teamsRun struct {
	Type   string `json:"type"`
	Text   string `json:"text"`
	Size   string `json:"size,omitempty"`
	Weight string `json:"weight,omitempty"`
	Color  string `json:"color,omitempty"`
}

type teamsAction struct {
	Type  string `json:"type"`
	Title string `json:"title"`
	URL   string `json:"url"`
}

var teamsColors = map[mood]string{good: "Good", bad: "Attention"}

// teamsEscape breaks the tag that mentions somebody. Teams heeds it only beside a list of
// entities, which these cards do not have.
var teamsEscape = strings.NewReplacer("<", "<\u200b")

func teamsEscaped(text string, max int) string {
	return clip(escaped(text, teamsEscape.Replace), max)
}

// teams makes a message with as much of the text as it has room for.
func teams(c card) any {
	for room := teamsText; ; room /= 2 {
		m := teamsWith(c, room)
		written, err := json.Marshal(m)
		if err != nil || room < 100 || len(written) <= teamsBytes && units(string(written)) <= teamsUnits {
			return m
		}
	}
}

func teamsWith(c card, room int) teamsMessage {
	card := teamsCard{
		Schema: "http://adaptivecards.io/schemas/adaptive-card.json", Type: "AdaptiveCard", Version: "1.4", Teams: teamsOptions{"Full"},
	}
	add := func(spacing string, runs ...teamsRun) {
		for i := range runs {
			runs[i].Type = "TextRun"
		}
		card.Body = append(card.Body, teamsElement{Type: "RichTextBlock", Inlines: runs, Spacing: spacing})
	}
	add("", teamsRun{Text: teamsEscaped(c.title, teamsTitle), Size: "Large", Weight: "Bolder", Color: teamsColors[c.mood]})
	// A line of a RichTextBlock has no end, so each line has a block.
	lines := strings.Split(teamsEscaped(c.text, room), "\n")
	if len(lines) > teamsLines {
		lines = append(lines[:teamsLines-1], strings.Join(lines[teamsLines-1:], " "))
	}
	spacing := ""
	for _, line := range lines {
		if line == "" { // an empty line is a larger space
			spacing = "Medium"
			continue
		}
		add(spacing, teamsRun{Text: line})
		spacing = "None"
	}
	if c.image != "" {
		card.Body = append(card.Body, teamsElement{Type: "Image", URL: c.image, AltText: "Screenshot"})
	}
	for i, f := range c.fields {
		spacing := "None"
		if i == 0 {
			spacing = "Medium"
		}
		add(spacing, teamsRun{Text: teamsEscaped(f.name, teamsName) + ": ", Weight: "Bolder"}, teamsRun{Text: teamsEscaped(f.value, teamsValue)})
	}
	for _, l := range c.links {
		card.Actions = append(card.Actions, teamsAction{"Action.OpenUrl", l.name, l.url})
	}
	return teamsMessage{Type: "message", Attachments: []teamsAttachment{{"application/vnd.microsoft.card.adaptive", card}}}
}
