package intake

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestBrowserIsThanked: a browser that sends a form without script is led back to
// its page, or thanked in its language. A script gets JSON.
func TestBrowserIsThanked(t *testing.T) {
	t.Parallel()
	const browser = "text/html,application/xhtml+xml,*/*;q=0.8"
	for _, c := range []struct {
		name, accept, languages, referer string
		status                           int
		language, text                   string
	}{
		{"with a page", browser, "de", "https://app.example.com/form?step=2", http.StatusSeeOther, "", ""},
		{"in English", browser, "en-US,en;q=0.9", "", http.StatusAccepted, "en", "Thank you"},
		{"in German", browser, "de-CH,de;q=0.9,en;q=0.8", "", http.StatusAccepted, "de", "Danke"},
		{"in French", browser, "fr", "", http.StatusAccepted, "fr", "Merci"},
		{"in Spanish", browser, "es-419", "", http.StatusAccepted, "es", "Gracias"},
		{"in Japanese", browser, "ja", "", http.StatusAccepted, "ja", "ありがとうございます"},
		{"in the second language", browser, "it, fr;q=0.5", "", http.StatusAccepted, "fr", "Merci"},
		{"in none that is known", browser, "it", "", http.StatusAccepted, "en", "Thank you"},
		{"without a language", browser, "", "", http.StatusAccepted, "en", "Thank you"},
		{"with a language that is none", browser, "\"><script>", "", http.StatusAccepted, "en", "Thank you"},
		{"with a Referer that is no page", browser, "", "javascript:alert(1)", http.StatusAccepted, "en", "Thank you"},
		{"a script", "application/json", "de", "", http.StatusAccepted, "", `"status":"new"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newSite(t).handler(Config{})
			r := httptest.NewRequest(http.MethodPost, "/feedback", strings.NewReader("message=hi"))
			for name, value := range map[string]string{
				"Content-Type": "application/x-www-form-urlencoded", "Accept": c.accept, "Accept-Language": c.languages, "Referer": c.referer,
			} {
				if value != "" {
					r.Header.Set(name, value)
				}
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.text) || w.Header().Get("Content-Language") != c.language {
				t.Errorf("%d %v: %s", w.Code, w.Header(), w.Body)
			}
			if c.status == http.StatusSeeOther && w.Header().Get("Location") != c.referer {
				t.Errorf("led to %q", w.Header().Get("Location"))
			}
			if c.language != "" && !strings.Contains(w.Body.String(), `<html lang="`+c.language+`">`) {
				t.Errorf("the page is not marked as %s: %s", c.language, w.Body)
			}
		})
	}
}
