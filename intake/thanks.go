package intake

import (
	"fmt"
	"net/http"
	"net/url"

	"golang.org/x/text/language"
)

// thanks are what a browser without script shows after it has sent a form, by
// language. The first is for visitors who read none of them.
var thanks = []struct {
	language language.Tag
	sentence string
}{
	{language.English, "Thank you, your feedback has arrived."},
	{language.German, "Danke, Ihr Feedback ist angekommen."},
	{language.French, "Merci, votre avis est bien arrivé."},
	{language.Spanish, "Gracias, hemos recibido sus comentarios."},
	{language.Japanese, "ありがとうございます。ご意見を受け取りました。"},
}

var thanksLanguages = func() language.Matcher {
	var tags []language.Tag
	for _, t := range thanks {
		tags = append(tags, t.language)
	}
	return language.NewMatcher(tags)
}()

const thanksPage = `<!doctype html>
<html lang="%s"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<title>%[2]s</title><main><h1>%[2]s</h1></main></html>
`

// writeThanks leads the browser back to the page that holds the form. If the
// Referer field does not name that page, the answer is a page of its own, in the
// visitor's language.
func writeThanks(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if page, err := url.Parse(r.Referer()); err == nil && page.Host != "" && (page.Scheme == "https" || page.Scheme == "http") {
		h.Set("Location", page.String())
		w.WriteHeader(http.StatusSeeOther)
		return
	}
	_, i := language.MatchStrings(thanksLanguages, hint(r.Header, "Accept-Language"))
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Language", thanks[i].language.String())
	w.WriteHeader(http.StatusAccepted)
	_, _ = fmt.Fprintf(w, thanksPage, thanks[i].language, thanks[i].sentence)
}
