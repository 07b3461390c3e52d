package intake

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/event"
)

func TestRequestTellsItsContext(t *testing.T) {
	t.Parallel()
	const mac = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36"
	const edge = mac + " Edg/120.0.2210.91"
	for _, c := range []struct {
		name   string
		header []string
		want   event.Context
	}{
		{"nothing", nil, event.Context{}},
		{"user agent", []string{"User-Agent", mac}, event.Context{Browser: "Chrome", BrowserVersion: "120", OS: "macOS", DeviceType: "desktop"}},
		{"phone", []string{"User-Agent", "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Mobile/15E148 Safari/604.1"}, event.Context{Browser: "Safari", BrowserVersion: "17", OS: "iOS", DeviceType: "mobile"}},
		{"script", []string{"User-Agent", "curl/8.5.0"}, event.Context{}},
		{
			"client hints win",
			[]string{"User-Agent", mac, "Sec-CH-UA", `"Not_A Brand";v="8", "Chromium";v="121", "Microsoft Edge";v="122"`, "Sec-CH-UA-Platform", `"Windows"`, "Sec-CH-UA-Mobile", "?1"},
			event.Context{Browser: "Edge", BrowserVersion: "122", OS: "Windows", DeviceType: "mobile"},
		},
		{"engine alone", []string{"Sec-CH-UA", `"Chromium";v="121", "Not A;Brand";v="99"`}, event.Context{Browser: "Chromium", BrowserVersion: "121"}},
		{"broken hints", []string{"User-Agent", edge, "Sec-CH-UA", `Edge 5`, "Sec-CH-UA-Platform", `Windows"`}, event.Context{Browser: "Edge", BrowserVersion: "120", OS: "macOS", DeviceType: "desktop"}},
		{"page", []string{"Referer", "https://app.example.com/dashboard?tab=1"}, event.Context{PageURL: "https://app.example.com/dashboard?tab=1"}},
		{"language", []string{"Accept-Language", "de;q=0.5, en-US, fr;q=0.9"}, event.Context{Locale: "en-US"}},
		{"any language", []string{"Accept-Language", "*"}, event.Context{}},
		{"country", []string{"CF-IPCountry", "de"}, event.Context{Country: "DE"}},
		{"unknown country", []string{"CF-IPCountry", "XX"}, event.Context{}},
		{"tor", []string{"CF-IPCountry", "T1"}, event.Context{}},
		{"no country", []string{"CF-IPCountry", "ZZ"}, event.Context{}},
		{"a union", []string{"CF-IPCountry", "EU"}, event.Context{}},
		{"a proxy", []string{"CF-IPCountry", "A1"}, event.Context{}},
		{"two codes in one", []string{"CF-IPCountry", "D "}, event.Context{}},
		{"the last country", []string{"CF-IPCountry", "zw"}, event.Context{Country: "ZW"}},
		{"too long", []string{"Referer", "https://" + strings.Repeat("a", maxHint)}, event.Context{}},
		{"no text", []string{"Referer", "https://example.com/\xff"}, event.Context{PageURL: "https://example.com/\uFFFD"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := &http.Request{Header: make(http.Header)}
			for i := 0; i < len(c.header); i += 2 {
				r.Header.Set(c.header[i], c.header[i+1])
			}
			h := newSite(t).handler(Config{CountryHeader: "CF-IPCountry"})
			if got := h.defaults(r, scope{}, parsed(t, `{"message":"m"}`)).Context; got != c.want {
				t.Errorf("got %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestWhatAFeedbackSaysIsNotLookedUp(t *testing.T) {
	t.Parallel()
	r := &http.Request{Header: http.Header{
		"User-Agent":      {"Mozilla/5.0 (X11; Linux x86_64; rv:120.0) Gecko/20100101 Firefox/120.0"},
		"Accept-Language": {"de"},
		"Cf-Ipcountry":    {"DE"},
	}}
	h := newSite(t).handler(Config{CountryHeader: "CF-IPCountry"})
	const told = `{"message":"m","context":{"browser":"Chrome","browserVersion":"120","os":"macOS","locale":"en","country":"US"`
	if got := h.defaults(r, scope{}, parsed(t, told+`,"deviceType":"desktop"}}`)).Context; got != (event.Context{}) {
		t.Errorf("looked up %+v for a feedback that says all of it", got)
	}
	f := parsed(t, told+`}}`)
	f.Fill(h.defaults(r, scope{}, f))
	document, err := f.Document(event.Created, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	const want = `"context":{"browser":"Chrome","browserVersion":"120","os":"macOS","deviceType":"desktop","locale":"en","country":"US"}`
	if !strings.Contains(string(document), want) {
		t.Errorf("%s has no %s", document, want)
	}
}

func parsed(t *testing.T, submission string) *event.Feedback {
	t.Helper()
	f, err := event.Parse([]byte(submission))
	if err != nil {
		t.Fatal(err)
	}
	return f
}
