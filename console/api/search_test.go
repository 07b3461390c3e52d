package api

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestSearchFindsWhatPeopleSee(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		message, text string
		found         bool
	}{
		{"The export button does nothing", "EXPORT button", true},
		{"The export\nbutton", "export button", true},
		{"The export\r\n\r\n  button", "the  export\tbutton", true},
		{"The export\u00a0button", "export button", true},
		{"exportbutton", "export button", false},
		{`He said "no"`, `said "no"`, true},
		{`C:\new\table`, `c:\new\table`, true},
		{"a\nb", `a\nb`, false},
		{"Grüße aus Köln", "GRÜSSE AUS KÖLN", true},
		{"Grüße", "grusse", true},
		{"gruesse", "grüße", false},
		{"Les données sont ÉGARÉES", "donnees sont egarees", true},
		{"Señor", "SENOR", true},
		{"senor", "Señor", true},
		{"Ёлка", "елка", true},
		{"プログラム", "プログラム", true},
		{"フ\u309aロ\u3099", "プ", true},
		{"가", "\u1100\u1161", true},
		{"ＦＵＬＬ\u3000width", "ｆｕｌｌ width", true},
		{"STRASSE", "straße", true},
		{"ΟΔΥΣΣΕΎΣ", "οδυσσεύς", true},
		{"ПРИВЕТ мир", "привет МИР", true},
		{"İstanbul, ISPARTA", "istanbul", true},
		{"ısparta", "ISPARTA", true},
		{"cafe\u0301", "CAFÉ", true},
		{"café", "cafe\u0301", true},
		{"\u2028line", "line", true},
		{"a \u0001 b", "a \u0001 b", true},
		{"👋 hello", "👋 HELLO", true},
		{"<b>&amp;</b>", "<B>&AMP;", true},
		{"nothing", "", true},
		{"nothing", "  ", true},
		{"ascii alone", "ä", true},
		{"ends with a quote\\", "quote\\", true},
		{"any", "metadata", false},
		{"any", "chrome", false},
		{"any", "proj_a", true},
		{"any", "pro", true},
		{"any", "/reports", true},
		{"any", "w_default", false},
		{"any", "any pro", false},
		{"any", "42.5", true},
		{"any", `"browser":"Chrome"`, true},
		{"any", `"plan":"pro"`, true},
		{"any", `"note":"He said \"hi\""`, true},
		{"any", `"plan":"free"`, false},
		{"any", "a\\", false},
	} {
		body, err := json.Marshal(map[string]any{"event": "feedback.created", "data": map[string]any{
			"message": c.message, "projectId": "proj_a", "widgetId": "w_default", "context": map[string]any{"browser": "Chrome", "pageUrl": "/reports", "viewport": map[string]int{"width": 1}},
			"metadata": map[string]any{"note": `He said "hi"`, "plan": "pro", "list": []any{42.5, true}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		matches := NewSearch(c.text)
		if got := matches == nil || matches(body); got != c.found {
			t.Errorf("%q in %s: %v", c.text, body, got)
		}
	}
	for body, want := range map[string]string{
		`\ud83d\udc4b`: "👋", `\ud83d`: "\ufffd", `\ud83dx`: "\ufffdx", `\u00e9`: "é", `\u00`: `\u00`, `x\`: `x\`, `\ud83d\u0041`: "\ufffdA",
	} {
		if got := string(unescaped([]byte(body))); got != want {
			t.Errorf("%s reads %q, want %q", body, got, want)
		}
	}
}

func BenchmarkSearch(b *testing.B) {
	for name, message := range map[string]string{"ascii": "The export button does nothing when I click it.", "lines": "Der Knopf\nfür den Export tut nichts"} {
		b.Run(name, func(b *testing.B) {
			body, err := json.Marshal(map[string]any{"event": "feedback.created", "data": map[string]string{"message": message, "rest": strings.Repeat("some other words ", 35)}})
			if err != nil {
				b.Fatal(err)
			}
			matches := NewSearch("nowhere to be found")
			for b.Loop() {
				matches(body)
			}
		})
	}
}
