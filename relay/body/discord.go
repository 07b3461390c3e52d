package body

import (
	"regexp"
	"strings"
)

// Limits of Discord: a title has 256 characters, a description 4,096, an embed 25 fields
// with a name of 256 and a value of 1,024
// (https://discord.com/developers/docs/resources/message#embed-object-embed-limits). All
// embeds together have 6,000, and a message 10 embeds
// (https://discord.com/developers/docs/resources/webhook#execute-webhook). With ten fields
// these values keep the sum. There is no content, footer or author.
const (
	discordTitle       = 256
	discordDescription = 3000
	discordName        = 60
	discordValue       = 200
)

type discordMessage struct {
	Embeds []discordEmbed `json:"embeds"`
	// AllowedMentions is empty: nobody is mentioned, whatever the texts hold.
	AllowedMentions discordMentions `json:"allowed_mentions"`
}

type discordMentions struct {
	Parse []string `json:"parse"`
}

type discordEmbed struct {
	Title       string         `json:"title"`
	URL         string         `json:"url,omitempty"`
	Description string         `json:"description"`
	Color       int            `json:"color"`
	Fields      []discordField `json:"fields,omitempty"`
	Image       *discordImage  `json:"image,omitempty"`
	Timestamp   string         `json:"timestamp,omitempty"`
}

type discordField struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Inline bool   `json:"inline"`
}

type discordImage struct {
	URL string `json:"url"`
}

var discordColors = map[mood]int{neutral: 0x5865f2, good: 0x2e8b57, bad: 0xd83c3e}

// plainURL matches a URL in which nothing is markup, so that Discord can link it.
var plainURL = regexp.MustCompile(`^https?://[A-Za-z0-9\-._?=&%#:+,;!$/]+$`)

// discordMarkup holds the characters that Discord takes as markup. A backslash before
// one makes it text.
const discordMarkup = "\\*_~`|<>#-[]()"

// discordEscape escapes one character with its marks. Discord finds no name after an @
// that a zero width space follows.
func discordEscape(cluster string) string {
	switch {
	case cluster[0] == '@':
		return "@\u200b" + cluster[1:]
	case strings.IndexByte(discordMarkup, cluster[0]) >= 0:
		return `\` + cluster
	}
	return cluster
}

func discordEscaped(text string, max int) string {
	return clip(func(yield func(string) bool) {
		for word := range strings.SplitAfterSeq(text, " ") {
			if plainURL.MatchString(strings.TrimRight(word, " ")) {
				if !yield(word) {
					return
				}
				continue
			}
			for part := range escaped(word, discordEscape) {
				if !yield(part) {
					return
				}
			}
		}
	}, max)
}

func discord(c card) any {
	e := discordEmbed{
		Title: discordEscaped(c.title, discordTitle), Description: discordEscaped(c.text, discordDescription),
		Color: discordColors[c.mood], Timestamp: c.at,
	}
	for _, f := range c.fields {
		e.Fields = append(e.Fields, discordField{discordEscaped(f.name, discordName), discordEscaped(f.value, discordValue), true})
	}
	if len(c.links) > 0 {
		e.URL = c.links[0].url
	}
	if c.image != "" {
		e.Image = &discordImage{c.image}
	}
	return discordMessage{Embeds: []discordEmbed{e}, AllowedMentions: discordMentions{Parse: []string{}}}
}
