package body

import "strings"

// Limits of Slack: a header has 150 characters
// (https://docs.slack.dev/reference/block-kit/blocks/header-block), the text of a section
// 3,000, a section 10 fields of 2,000
// (https://docs.slack.dev/reference/block-kit/blocks/section-block), a message 50 blocks
// (https://docs.slack.dev/reference/block-kit/blocks). There are no buttons and images, which
// have limits of their own. Notifications show the text of the message; "chat.postMessage"
// advises at most 4,000 characters for it.
const (
	slackHeader  = 150
	slackSection = 3000
	slackField   = 500
	slackSummary = 500
)

type slackMessage struct {
	Text   string       `json:"text"`
	Mrkdwn bool         `json:"mrkdwn"`
	Blocks []slackBlock `json:"blocks"`
}

type slackBlock struct {
	Type   string        `json:"type"`
	Text   *slackObject  `json:"text,omitempty"`
	Fields []slackObject `json:"fields,omitempty"`
}

// slackObject is a text object. What visitors wrote is in plain text, in which Slack
// looks for neither mentions nor markup.
type slackObject struct {
	Type string `json:"type"`
	Text string `json:"text"`
	// Emoji is false in plain text, so that :smile: stays as it is.
	Emoji *bool `json:"emoji,omitempty"`
	// Verbatim keeps Slack from looking for names in mrkdwn.
	Verbatim bool `json:"verbatim,omitempty"`
}

func slackPlain(text string, max int) slackObject {
	return slackObject{Type: "plain_text", Text: slackEscaped(text, max), Emoji: new(bool)}
}

// slackEscapes are the characters that "Formatting text for app surfaces" of
// docs.slack.dev asks to escape. Mentions and links begin with one of them.
var slackEscapes = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

func slackEscaped(text string, max int) string {
	return clip(escaped(text, slackEscapes.Replace), max)
}

func slack(c card) any {
	title, text := slackPlain(c.title, slackHeader), slackPlain(c.text, slackSection)
	m := slackMessage{
		Text:   slackEscaped(c.title+": "+c.text, slackSummary),
		Blocks: []slackBlock{{Type: "header", Text: &title}, {Type: "section", Text: &text}},
	}
	var fields []slackObject
	for _, f := range c.fields {
		fields = append(fields, slackPlain(f.name+": "+f.value, slackField))
	}
	if len(fields) > 0 {
		m.Blocks = append(m.Blocks, slackBlock{Type: "section", Fields: fields})
	}
	// A link to the screenshot, not a block with it: Slack refuses a message whose image
	// it cannot fetch, so a screenshot behind a login would keep all its feedback out.
	var links []string
	for _, l := range c.links {
		links = append(links, "<"+slackEscapes.Replace(l.url)+"|"+l.name+">")
	}
	if joined := strings.Join(links, "  ·  "); joined != "" && units(joined) <= slackSection {
		m.Blocks = append(m.Blocks, slackBlock{Type: "section", Text: &slackObject{Type: "mrkdwn", Text: joined, Verbatim: true}})
	}
	return m
}
