package words

import (
	"fmt"
	"regexp"
	"strings"
)

var (
	// filterPlace is the start of each part of a filter's error: line:column.
	filterPlace = regexp.MustCompile(`(?:^|; )(\d+):(\d+): `)
	// parserNoise is the part of CEL's errors that does not help to correct the expression.
	parserNoise = regexp.MustCompile(` (expecting \{.*|\(in container '[^']*'\))\s*$`)
)

// Expression returns the error of an expression for people: what is wrong and where.
func Expression(text, ending string) string {
	places := filterPlace.FindAllStringSubmatchIndex(text, -1)
	if len(places) == 0 || places[0][0] != 0 {
		return text
	}
	parts := make([]string, len(places))
	for i, p := range places {
		end := len(text)
		if i+1 < len(places) {
			end = places[i+1][0]
		}
		where := "At character " + text[p[4]:p[5]]
		if line := text[p[2]:p[3]]; line != "1" {
			where += " of line " + line
		}
		what, _ := strings.CutPrefix(text[p[1]:end], "Syntax error: ")
		what = strings.ReplaceAll(parserNoise.ReplaceAllString(what, ""), "'<EOF>'", ending)
		parts[i] = fmt.Sprintf("%s: %s.", where, strings.TrimSuffix(what, "."))
	}
	return strings.Join(parts, " ")
}
