package console

import (
	"strings"
	"unicode/utf8"

	"github.com/userhero/relay/console/words"
	"github.com/userhero/relay/queue"
)

// A page stays below 100 KiB, whatever people and receivers wrote. These bound what it
// shows of one text, in bytes of HTML. What is cut off has a page of its own, as plain text.
const (
	mostBody    = 11 << 10 // of a body, a document or a command
	mostHeaders = 6 << 10  // of the headers of a request or an answer
	mostMembers = 10 << 10 // of a table of members
	mostChanges = 12 << 10 // of the changes in a history
)

// piece is as much of a text as a page shows.
type piece struct {
	Text  string
	Cut   bool   // there is more
	Size  string // of the whole
	Whole string // address of the whole, relative to the console's root; empty if it is not kept
}

// pieceOf returns as much of a text as fits into a number of bytes of HTML.
func pieceOf(text string, most int, whole string) piece {
	shown := text[:fits(text, most)]
	return piece{shown, len(shown) < len(text), words.Size(int64(len(text))), whole}
}

// fits returns how many bytes of a text fit into a number of bytes of HTML, as
// html/template writes them. It splits no character.
func fits(text string, most int) int {
	for i, r := range text {
		most -= escapedSize(r)
		if most < 0 {
			return i
		}
	}
	return len(text)
}

func escapedSize(r rune) int {
	switch r {
	case '"', '\'', '&', '+':
		return len("&#34;")
	case '<', '>':
		return len("&lt;")
	}
	return utf8.RuneLen(r)
}

// shorten cuts a text to n characters, and to 3n bytes of HTML; each run of white space is
// one space.
func shorten(text string, n int) string {
	text = strings.Join(strings.Fields(text), " ")
	end := fits(text, 3*n)
	if runes := []rune(text[:end]); len(runes) > n || end < len(text) {
		return string(runes[:min(len(runes), n-1)]) + "…"
	}
	return text
}

const (
	// foldedAfter is how many characters of a message are shown before the rest is folded
	// away, and foldedAfterLines how many lines.
	foldedAfter      = 1200
	foldedAfterLines = 30
)

// folded splits a message into what a page shows and what it folds away: nothing if that
// would be little.
func folded(message string) (shown, rest string) {
	chars, lines, at := 0, 0, len(message)
	for i, r := range message {
		if chars++; r == '\n' {
			lines++
		}
		if at == len(message) && (chars > foldedAfter || lines >= foldedAfterLines) {
			at = i
		}
		if chars > foldedAfter+200 || lines > foldedAfterLines+5 {
			return message[:at], message[at:]
		}
	}
	return message, ""
}

// fewMembers returns as many members as fit into mostMembers, and how many are left.
func fewMembers(all []member) (shown []member, left int) {
	room := mostMembers
	for i, m := range all {
		m.Name, m.Value = shorten(m.Name, 120), shorten(m.Value, 600)
		if room -= fixedRow + sizeOf(m.Name) + sizeOf(m.Value); room < 0 {
			return shown, len(all) - i
		}
		shown = append(shown, m)
	}
	return shown, 0
}

// fixedRow is about what the markup of a row takes.
const fixedRow = 80

func sizeOf(text string) (n int) {
	for _, r := range text {
		n += escapedSize(r)
	}
	return n
}

// fewHeaders returns as many headers as fit into mostHeaders.
func fewHeaders(all []queue.Header) (shown []queue.Header, cut bool) {
	room := mostHeaders
	for _, h := range all {
		short := queue.Header{Name: shorten(h.Name, 120), Value: shorten(h.Value, 400)}
		if room -= fixedRow + sizeOf(short.Name) + sizeOf(short.Value); room < 0 {
			return shown, true
		}
		cut = cut || short != h
		shown = append(shown, short)
	}
	return shown, cut
}
