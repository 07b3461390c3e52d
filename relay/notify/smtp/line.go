package smtp

import (
	"regexp"
	"strings"
	"unicode"

	"github.com/userhero/relay/relay/redact"
)

const (
	maxName   = 80  // characters of a webhook's or a machine's name
	maxReason = 300 // characters of a reason
	maxURL    = 300 // characters of a URL
)

// oneLine makes any text one printable line of at most limit characters. Line breaks
// and other control characters become spaces, so the text is safe in headers. Format
// characters are removed, because those that change the writing direction can make a
// text read as something else (Unicode TR 36 §2.2).
func oneLine(text string, limit int) string {
	var b strings.Builder
	count, space := 0, false
	for _, r := range strings.ToValidUTF8(text, "\uFFFD") {
		if unicode.IsSpace(r) || unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || // Guard: text from elsewhere is one line in mails.
			unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r) {
			space = b.Len() > 0
			continue
		}
		if space {
			b.WriteByte(' ')
			count++
			space = false
		}
		if count >= limit {
			b.WriteRune('…')
			break
		}
		b.WriteRune(r)
		count++
	}
	return b.String()
}

// publicURL returns a URL without its secrets, as one line.
func publicURL(raw string) string { return oneLine(redact.URL(raw), maxURL) }

var urlInText = regexp.MustCompile(`(?i)[a-z][a-z0-9+.-]*://[^\s"'<>]+`)

// reasonLine returns a reason as one line and removes the secrets of the URLs in it.
// Errors of HTTP clients often quote the whole address.
func reasonLine(reason string) string {
	cleaned := urlInText.ReplaceAllStringFunc(reason, func(raw string) string {
		// Punctuation after a URL is not part of it.
		trimmed := strings.TrimRight(raw, ".,:;)]}")
		shown := publicURL(trimmed)
		if shown == "" {
			shown = "(URL)"
		}
		return shown + raw[len(trimmed):]
	})
	return oneLine(cleaned, maxReason)
}
