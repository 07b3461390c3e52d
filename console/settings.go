package console

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/console/words"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/redact"
)

// settings are the settings of a webhook in a form.
type settings struct {
	URL, Filter, Retry, Timeout, Concurrency, Rate string
	Projects, Notify                               string // one a line
	Sent                                           bodyChoice
	Ticked                                         []event.Type
	Ordered                                        bool
	Headers                                        string // only new ones: the present ones are secrets
	Removed                                        []string
}

func settingsOf(w relay.WebhookStatus) settings {
	rungs := make([]string, len(w.Retry))
	for i, d := range w.Retry {
		rungs[i] = words.Rung(d)
	}
	ticked := w.Events
	if len(ticked) == 0 {
		ticked = event.Types()
	}
	return settings{
		URL: redact.Marked(w.URL), Projects: strings.Join(w.Projects, "\n"), Filter: w.Filter, Retry: strings.Join(rungs, " "), Timeout: words.Rung(w.Timeout),
		Concurrency: strconv.Itoa(w.Concurrency), Rate: w.Rate.String(),
		Ticked: ticked, Ordered: w.Ordered, Notify: strings.Join(w.Notify, "\n"), Sent: sentOf(w.Body),
	}
}

// inputOf reads a form of settings. A setting without a field in the form keeps its
// value.
func inputOf(r *http.Request) (in api.WebhookSettings, err error) {
	var errs []error
	given := func(name string) *string {
		if !r.PostForm.Has(name) {
			return nil
		}
		v := field(r, name)
		return &v
	}
	in.URL, in.Filter, in.Rate = given("url"), given("filter"), given("rate")
	if r.PostForm.Has("projects") {
		projects := linesOf(r, "projects")
		in.Projects = &projects
	}
	if r.PostForm.Has("notify") {
		owners := linesOf(r, "notify")
		in.Notify = &owners
	}
	if r.PostForm.Has("sent") {
		source := sentIn(r).source()
		in.Body = &source
	}
	if retry := given("retry"); retry != nil {
		rungs := strings.Fields(*retry)
		in.Retry = &rungs
	}
	if timeout := given("timeout"); timeout != nil && *timeout != "" {
		in.Timeout = timeout
	}
	if text := given("concurrency"); text != nil && *text != "" {
		n, err := strconv.Atoi(*text)
		if err != nil || n < 1 {
			errs = append(errs, api.Unprocessable("/concurrency", fmt.Errorf("%q is not a number above zero", *text)))
		}
		in.Concurrency = &n
	}
	if r.PostForm.Has("choices") { // browsers do not send boxes that are not ticked
		if in.Events, err = eventsOf(r); err != nil {
			errs = append(errs, err)
		}
		ordered := field(r, "ordered") != ""
		in.Ordered = &ordered
	}
	if text := given("headers"); text != nil && *text != "" {
		headers := make(map[string]string)
		for line := range strings.Lines(*text) {
			name, value, ok := strings.Cut(strings.TrimSpace(line), ":")
			if !ok {
				errs = append(errs, api.Unprocessable("/headers", fmt.Errorf("%q is not a line such as Authorization: Bearer …", strings.TrimSpace(line))))
				break
			}
			headers[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
		in.Headers = &headers
	}
	return in, errors.Join(errs...)
}

// linesOf reads a field with one value a line.
func linesOf(r *http.Request, name string) (values []string) {
	for line := range strings.Lines(field(r, name)) {
		if value := strings.TrimSpace(line); value != "" {
			values = append(values, value)
		}
	}
	return values
}

// tickedIn returns the types of events whose boxes are ticked.
func tickedIn(r *http.Request) []event.Type {
	ticked := []event.Type{}
	for _, t := range slices.Concat(event.Types(), event.OperationalTypes()) {
		if slices.Contains(r.PostForm["events"], string(t)) {
			ticked = append(ticked, t)
		}
	}
	return ticked
}

// eventsOf reads the ticked events. If all of feedback are ticked and no others, it
// returns an empty list: the default, which includes types of later versions.
func eventsOf(r *http.Request) (*[]event.Type, error) {
	ticked := tickedIn(r)
	switch {
	case len(ticked) == 0:
		return nil, api.Unprocessable("/events", errors.New("choose at least one; to send nothing, pause the webhook"))
	case slices.Equal(ticked, event.Types()):
		ticked = []event.Type{}
	}
	return &ticked, nil
}

// headersOf returns the headers of a webhook with some added or replaced and some
// removed; nil if none changes.
func headersOf(c relay.WebhookConfig, added *map[string]string, removed []string) *map[string]string {
	if added == nil && len(removed) == 0 {
		return nil
	}
	merged := make(map[string]string)
	for name, values := range c.Header {
		if !slices.Contains(removed, name) {
			merged[name] = strings.Join(values, ", ")
		}
	}
	if added != nil {
		for name, value := range *added {
			maps.DeleteFunc(merged, func(present, _ string) bool { return strings.EqualFold(present, name) })
			merged[name] = value
		}
	}
	return &merged
}

// settingsForm is a form of settings that was refused, as the user filled it in.
type settingsForm struct {
	Settings settings
	Wrong    wrongFields
	Previews []preview
}

// settingsIn returns the settings as the user has filled them in.
func settingsIn(r *http.Request) settings {
	return settings{
		URL: field(r, "url"), Projects: field(r, "projects"), Filter: field(r, "filter"), Retry: field(r, "retry"), Timeout: field(r, "timeout"),
		Concurrency: field(r, "concurrency"), Rate: field(r, "rate"), Headers: field(r, "headers"), Removed: r.PostForm["remove"],
		Ticked: tickedIn(r), Ordered: field(r, "ordered") != "", Notify: field(r, "notify"), Sent: sentIn(r),
	}
}

func (p pages) changeWebhook(r *http.Request) (any, error) {
	name := r.PathValue("name")
	if field(r, "go") == "preview" {
		previews, err := p.previewsOf(r, name)
		wrong := wrongIn(err)
		if err != nil && wrong == nil {
			return nil, err
		}
		return done{webhookAt(name) + tabSettings + "#sent", outcome{Of: &settingsForm{settingsIn(r), wrong, previews}}}, nil
	}
	changed := false
	in, unread := inputOf(r)
	err := p.relay.Change(r.Context(), name, func(c *relay.WebhookConfig) error {
		before := *c
		in.Headers = headersOf(*c, in.Headers, r.PostForm["remove"])
		err := errors.Join(unread, in.Apply(c))
		changed = !reflect.DeepEqual(before, *c)
		if err != nil {
			err = errors.Join(err, c.Validate()) // show all mistakes at once
		}
		return err
	}, api.UserOf(r))
	if wrong := wrongIn(err); wrong != nil {
		return done{webhookAt(name) + tabSettings, outcome{
			Status: http.StatusUnprocessableEntity, Flash: wrong.flash("Nothing was saved."),
			Of: &settingsForm{settingsIn(r), wrong, nil},
		}}, nil
	}
	if err != nil {
		return nil, err
	}
	w, err := p.webhookNamed(name)
	if err != nil {
		return nil, err
	}
	return said(webhookAt(name)+tabSettings, words.Changed(w, changed)), nil
}
