package console

import (
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/relay"
)

// eventsQuery is the query in the address of a list.
type eventsQuery struct {
	Search, Type, Webhook, State, Answer string
	Feedback, Project, Category, Status  string
	Rating                               string // one of ratings
	Since, Until, Zone                   string
	View                                 string // the name that a user gave to this query
	Cursor                               string
	Seen                                 int64 // documents that the pages before have read

	ofFeedback bool // the list has the newest event of each feedback
}

// fields are the parameters of a query with its fields and what chips call them.
func (q *eventsQuery) fields() []queryField {
	return []queryField{
		{"q", &q.Search, "text"}, {"type", &q.Type, "type"}, {"project", &q.Project, "project"}, {"category", &q.Category, "category"},
		{"rating", &q.Rating, "rating"}, {"status", &q.Status, "status"}, {"webhook", &q.Webhook, "webhook"}, {"state", &q.State, "delivery"},
		{"answer", &q.Answer, "answer"}, {"since", &q.Since, "since"}, {"until", &q.Until, "until"}, {"feedback", &q.Feedback, "feedback"},
		{"zone", &q.Zone, ""}, {"view", &q.View, ""}, {"cursor", &q.Cursor, ""},
	}
}

type queryField struct {
	name  string
	value *string
	chip  string // empty: it is no filter
}

func queryOf(v url.Values, feedback bool) eventsQuery {
	q := eventsQuery{ofFeedback: feedback}
	for _, f := range q.fields() {
		*f.value = strings.TrimSpace(v.Get(f.name))
	}
	q.Seen, _ = strconv.ParseInt(v.Get("seen"), 10, 64) // 0 if it is no number
	q.View = shorten(q.View, 80)
	return q
}

func (q eventsQuery) values() url.Values {
	v := url.Values{}
	for _, f := range q.fields() {
		if *f.value != "" {
			v.Set(f.name, *f.value)
		}
	}
	if q.Seen > 0 {
		v.Set("seen", strconv.FormatInt(q.Seen, 10))
	}
	return v
}

// path is the path of the list.
func (q eventsQuery) path() string {
	if q.ofFeedback {
		return feedbackArea
	}
	return "events"
}

// address returns the address of the list with this query.
func (q eventsQuery) address() string { return q.path() + "?" + q.values().Encode() }

// chips are the filters that are set.
func (q eventsQuery) chips() (chips []chip) {
	for _, f := range q.fields() {
		if f.chip == "" || *f.value == "" {
			continue
		}
		without := q
		without.Cursor, without.Seen, without.View = "", 0, ""
		for _, other := range without.fields() {
			if other.name == f.name {
				*other.value = ""
			}
		}
		text := *f.value
		if f.name == "rating" {
			text = ratingWords(text)
		}
		chips = append(chips, chip{f.chip + ": " + shorten(strings.TrimPrefix(text, "feedback."), 40), without.address()})
	}
	return chips
}

// ofDeliveries reports whether the list has deliveries instead of events.
func (q eventsQuery) ofDeliveries() bool { return q.Webhook != "" || q.State != "" || q.Answer != "" }

// ratings are the values of the filter by rating.
var ratings = []string{"1-2", "1", "2", "3", "4", "5", "4-5"}

func ratingWords(rating string) string {
	if from, to, ok := strings.Cut(rating, "-"); ok {
		return from + " or " + to
	}
	return rating
}

// facts are the filters by members of the document.
func (q eventsQuery) facts() api.Facts {
	f := api.Facts{Category: q.Category, Status: q.Status}
	from, to, _ := strings.Cut(q.Rating, "-")
	f.Rating, _ = strconv.Atoi(from) // 0 if it is no number: any
	f.RatingTo, _ = strconv.Atoi(to)
	return f
}

// span returns the time that the query selects. A date is a whole day in the zone of
// the query; a duration counts back from now.
func (q eventsQuery) span(now time.Time) (since, until time.Time, err error) {
	zone := "Z"
	if _, err := time.Parse("Z07:00", q.Zone); err == nil {
		zone = q.Zone
	}
	at := func(name, text string, days int) (time.Time, error) {
		if text == "" {
			return time.Time{}, nil
		}
		if day, err := time.Parse(time.DateOnly+"Z07:00", text+zone); err == nil {
			return day.AddDate(0, 0, days), nil
		}
		if t, err := time.Parse(time.RFC3339, text); err == nil {
			return t, nil
		}
		if back, err := relay.ParseDuration(text); err == nil && back > 0 {
			return now.Add(-back), nil
		}
		return time.Time{}, api.Unprocessable("/"+name, errors.New("is not a date such as 2026-01-07, a time or a duration such as 24h"))
	}
	if since, err = at("since", q.Since, 0); err != nil {
		return since, until, err
	}
	until, err = at("until", q.Until, 1)
	return since, until, err
}

// export is a link that downloads what a list selects.
type export struct{ Value, Name, Address string }

// exports are the exports of the feedback that the query selects. They cannot search for a
// text.
func (q eventsQuery) exports(since, until time.Time) (all []export) {
	v := url.Values{}
	set := func(name, value string) {
		if value != "" {
			v.Set(name, value)
		}
	}
	set("project", q.Project)
	for name, t := range map[string]time.Time{"since": since, "until": until} {
		if !t.IsZero() {
			v.Set(name, t.UTC().Format(time.RFC3339))
		}
	}
	set("filter", q.facts().Expression())
	for _, of := range []export{{api.FormatCSV, "a table (CSV)", ""}, {api.FormatJSON, "JSON, one feedback a line", ""}} {
		v.Set("format", of.Value)
		of.Address = "api/feedback?" + v.Encode()
		all = append(all, of)
	}
	return all
}
