package console

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/console/draw"
	"github.com/userhero/relay/console/words"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/redact"
)

// webhooksPerPage is how many rows a page has: below 100 KiB, and ten screens of a
// phone.
const webhooksPerPage = 25

// webhooksPage is the list of webhooks.
type webhooksPage struct {
	Rows           []webhookRow
	Search         string
	Total          int
	Page, Pages    int
	Previous, Next int // 0: none
	News           news
}

// webhookRow is a webhook in a list.
type webhookRow struct {
	Name, URL  string
	FromFile   bool
	Mark       words.Mark
	Why        string // the reason why it fails
	Enabled    bool
	Toggle     string // the word of the button: Pause, Resume or Enable; empty if there is none
	CanDelete  bool
	Buttons    bool
	Share      string // of the attempts of the last day that worked
	Day        draw.Stacked
	LastAnswer string
	LastAt     time.Time
	Waiting    int64
	Held       int64
	Failed     int64
}

func (p pages) webhookRow(r *http.Request, w relay.WebhookStatus, now time.Time) webhookRow {
	day, _ := p.relay.WebhookDay(w.Name)
	sum := day.Sum()
	row := webhookRow{
		Name: w.Name, URL: redact.Marked(w.URL), FromFile: w.Source == relay.FromCaddyfile,
		Mark:       words.WebhookMark(w, api.UserOf(r), now),
		Enabled:    w.State != relay.Disabled,
		Toggle:     toggleWord(w),
		CanDelete:  w.Source == relay.FromAPI || w.Parked,
		Share:      words.Share(sum.Delivered, sum.Delivered+sum.Failed),
		Day:        draw.StackedOf(day),
		LastAnswer: answerText(w.LastAnswer), LastAt: w.LastAttempt,
		Waiting: w.Counts.Pending + w.Counts.Retrying, Held: w.Counts.Held, Failed: w.Counts.Failed,
	}
	if w.State == relay.Failing {
		row.Why = w.Reason
	}
	return row
}

// toggleWord returns the word of the button that pauses, resumes or enables a webhook. It is
// empty if there is no button: only the Caddyfile can enable a webhook that it disables.
func toggleWord(w relay.WebhookStatus) string {
	switch {
	case w.Parked || w.State == relay.Disabled && w.Reason == "":
		return ""
	case w.State != relay.Disabled:
		return "Pause"
	case words.PausedByOwner(w):
		return "Resume"
	}
	return "Enable"
}

// answerText is the last answer: "204 No Content in 12 ms", or the error.
func answerText(a relay.Answer) string {
	switch {
	case a.Status != 0:
		return fmt.Sprintf("%d %s in %s", a.Status, http.StatusText(a.Status), words.Span(a.Duration))
	case a.Error != "":
		return a.Error
	}
	return ""
}

// inTroubleFirst sorts webhooks: those that fail come first.
func inTroubleFirst(all []relay.WebhookStatus) {
	rank := func(w relay.WebhookStatus) int {
		switch {
		case w.State == relay.Failing:
			return 0
		case w.Counts.Retrying > 0:
			return 1
		case w.State == relay.Disabled || w.Parked:
			return 3
		}
		return 2
	}
	slices.SortStableFunc(all, func(a, b relay.WebhookStatus) int { return cmp.Compare(rank(a), rank(b)) })
}

func (p pages) listWebhooks(r *http.Request) (any, error) {
	all := p.relay.Webhooks()
	page := webhooksPage{Search: strings.TrimSpace(r.URL.Query().Get("q"))}
	empty := len(all) == 0
	if page.Search != "" {
		wanted := strings.ToLower(page.Search)
		all = slices.DeleteFunc(all, func(w relay.WebhookStatus) bool {
			return !strings.Contains(strings.ToLower(w.Name), wanted) && !strings.Contains(strings.ToLower(redact.Marked(w.URL)), wanted)
		})
	}
	inTroubleFirst(all)
	page.Total = len(all)
	page.Pages = max((page.Total+webhooksPerPage-1)/webhooksPerPage, 1)
	page.Page, _ = strconv.Atoi(r.URL.Query().Get("page")) // 0 if it is not a number: the first page
	page.Page = min(max(page.Page, 1), page.Pages)
	if page.Page > 1 {
		page.Previous = page.Page - 1
	}
	if page.Page < page.Pages {
		page.Next = page.Page + 1
	}
	from := (page.Page - 1) * webhooksPerPage
	now := time.Now()
	for _, w := range all[from:min(from+webhooksPerPage, len(all))] {
		row := p.webhookRow(r, w, now)
		row.Buttons = !p.relay.ReadOnly()
		page.Rows = append(page.Rows, row)
	}
	out := p.outcome(r)
	again := "webhooks?" + url.Values{"q": {page.Search}, "page": {strconv.Itoa(page.Page)}}.Encode()
	page.News = newsOf(r, "hooks", again)
	return shown{name: "webhooks.html", status: out.Status, screen: screen{
		Title: "Webhooks", Area: "webhooks", Page: page, Empty: empty, Flash: out.Flash, Live: []string{"attempt", "state"},
		Again: again,
	}}, nil
}
