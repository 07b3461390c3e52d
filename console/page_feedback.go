package console

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

const (
	// mostHistory is how many events of one feedback its page shows.
	mostHistory = 50
	// mostFeedbackDeliveries is how many of its deliveries the page shows.
	mostFeedbackDeliveries = 40
)

// feedbackPage is the current state of one feedback, with its history and its deliveries.
type feedbackPage struct {
	ID, Project string
	Address     string
	Erase       string // address of the page that asks before it is erased
	Message     string
	Rest        piece  // of the message, folded away
	Whole       string // address of the newest document
	Rating      int
	Status      string
	At          time.Time // when it was created
	Facts       []member
	Metadata    members
	Others      members // members that the documentation does not know
	Picture     *picture
	History     []update
	Earlier     bool // the history has earlier events, which are not shown
	Deliveries  []feedbackDelivery
	More        int // deliveries that are not shown
}

// member is a name and a value of a document.
type member struct{ Name, Value string }

// members are a table of members. Left are not shown.
type members struct {
	Shown []member
	Left  int
	Whole string // address of the document
}

// picture is a screenshot. The browser loads it only if the user asked for it.
type picture struct {
	URL, Host string
	Shown     bool
	Show      string // address of the page that shows it
}

// update is one event of a feedback: what it changed.
type update struct {
	Event   string
	Created bool
	At      time.Time
	Changes []change
	Left    int // changes that are not shown
}

// change is a member that an update changed. One of the values is empty if the
// member was added or removed.
type change struct{ Name, From, To string }

// feedbackDelivery is a delivery of one of the events of a feedback.
type feedbackDelivery struct {
	deliveryRow
	Created bool // of the event feedback.created
}

// feedbackAt is the address of the page of a feedback.
func feedbackAt(id queue.FeedbackID) string {
	return "feedback/" + url.PathEscape(id.ID) + "?project=" + url.QueryEscape(id.Project)
}

func (p pages) showFeedback(r *http.Request) (any, error) {
	id, err := api.FindFeedback(r.Context(), p.queue, r.PathValue("id"), api.ProjectOf(r.URL.Query()))
	if err != nil {
		return nil, err
	}
	events, err := api.EventsOf(r.Context(), p.queue, id, mostHistory)
	if err != nil {
		return nil, err
	}
	latest := events[len(events)-1]
	page := feedbackPage{ID: id.ID, Project: id.Project, Address: feedbackAt(id), Earlier: !events[0].Replaces.IsZero(), At: events[0].Created}
	page.Erase = "erase?" + url.Values{"feedback": {id.ID}, "project": {id.Project}}.Encode()
	page.Whole = "events/" + latest.ID.String() + "/document"
	page.read(latest.Body)
	page.History = historyOf(events)
	all, err := p.deliveriesOf(r, events)
	if err != nil {
		return nil, err
	}
	shownDeliveries := min(len(all), mostFeedbackDeliveries)
	page.Deliveries, page.More = all[:shownDeliveries], len(all)-shownDeliveries
	out := p.outcome(r)
	s := screen{
		Title: cmp.Or(shorten(page.Message, 70), id.ID), Area: "feedback", Page: &page, Flash: out.Flash,
		Live: []string{"accepted", "attempt", "state"}, Again: page.Address,
	}
	if page.Picture != nil {
		page.Picture.Show = page.Address + "&picture=1"
		if r.URL.Query().Get("picture") != "" {
			page.Picture.Shown = true
			s.Again, s.Pictures = page.Picture.Show, page.Picture.Host
		}
	}
	return shown{name: "feedback.html", status: out.Status, screen: s}, nil
}

// read fills the page with the members of a document.
func (f *feedbackPage) read(body []byte) {
	var whole struct {
		Data json.RawMessage `json:"data"`
	}
	if json.Unmarshal(body, &whole) != nil { // the relay stores no other documents
		return
	}
	var d document
	_ = json.Unmarshal(body, &d)
	f.Message, f.Rating, f.Status = d.Data.Message, d.Data.Rating, shorten(d.Data.Status, 100)
	var rest string
	f.Message, rest = folded(f.Message)
	f.Rest = pieceOf(rest, mostBody, f.Whole)
	c := d.Data.Context
	f.fact("Category", d.Data.Category)
	f.fact("Project", d.Data.ProjectID)
	f.fact("Widget", d.Data.WidgetID)
	f.fact("Page", c.PageURL)
	f.fact("Came from", c.Referrer)
	browser := strings.TrimSpace(c.Browser + " " + c.BrowserVersion)
	if c.OS != "" {
		browser = strings.TrimSpace(browser + " on " + c.OS)
	}
	if c.DeviceType != "" {
		browser = strings.TrimPrefix(browser+", "+c.DeviceType, ", ")
	}
	f.fact("Browser", browser)
	if c.Viewport.Width > 0 {
		f.fact("Window", fmt.Sprintf("%.f × %.f pixels", c.Viewport.Width, c.Viewport.Height))
	}
	f.fact("Country", countryName(c.Country))
	f.fact("Language", c.Locale)
	f.fact("Time zone", c.Timezone)
	f.Picture = pictureOf(d.Data.ScreenshotURL)
	var metadata, others []member
	for _, m := range membersOf(whole.Data) {
		switch {
		case m.name == "metadata":
			flatten(m.value, "", &metadata)
		case m.name == "context":
			for _, inner := range membersOf(m.value) {
				if !knownContext[inner.name] {
					flatten(inner.value, "context."+inner.name, &others)
				}
			}
		case !knownData[m.name]:
			flatten(m.value, m.name, &others)
		}
	}
	f.Metadata, f.Others = membersIn(metadata, f.Whole), membersIn(others, f.Whole)
}

func membersIn(all []member, whole string) members {
	shown, left := fewMembers(all)
	return members{shown, left, whole}
}

func (f *feedbackPage) fact(name, value string) {
	if value != "" {
		f.Facts = append(f.Facts, member{name, shorten(value, 500)})
	}
}

// Members that the page shows in words.
var (
	knownData = set("id", "projectId", "widgetId", "message", "category", "rating", "status", "screenshotUrl", "context",
		"metadata", "createdAt")
	knownContext = set("pageUrl", "referrer", "browser", "browserVersion", "os", "deviceType", "viewport", "timezone", "locale",
		"country")
)

func set(names ...string) map[string]bool {
	s := make(map[string]bool, len(names))
	for _, name := range names {
		s[name] = true
	}
	return s
}

// pictureHost is a host that a content security policy can name.
var pictureHost = regexp.MustCompile(`^[A-Za-z0-9.-]+(:[0-9]+)?$`)

// pictureOf returns the screenshot at an address, or nil if no policy can name its
// host.
func pictureOf(address string) *picture {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || !pictureHost.MatchString(u.Host) {
		return nil
	}
	return &picture{URL: address, Host: u.Scheme + "://" + u.Host}
}

//go:embed countries.txt
var countryList string

// countryName returns the English name of a country (CLDR), or the code if it has
// none.
func countryName(code string) string {
	if _, rest, ok := strings.Cut("\n"+countryList, "\n"+strings.ToUpper(code)+" "); ok && len(code) == 2 {
		name, _, _ := strings.Cut(rest, "\n")
		return name
	}
	return code
}

// rawMember is a member of a JSON object.
type rawMember struct {
	name  string
	value json.RawMessage
}

// membersOf returns the members of a JSON object in their order. It returns nil if the value
// is not an object.
func membersOf(object json.RawMessage) (members []rawMember) {
	decoder := json.NewDecoder(bytes.NewReader(object))
	if t, err := decoder.Token(); err != nil || t != json.Delim('{') {
		return nil
	}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return members
		}
		var m rawMember
		m.name, _ = name.(string)
		if decoder.Decode(&m.value) != nil {
			return members
		}
		members = append(members, m)
	}
	return members
}

// flatten adds the values inside a JSON value, each with its path.
func flatten(value json.RawMessage, path string, to *[]member) {
	inner := membersOf(value)
	if len(inner) == 0 {
		text := string(value)
		if value[0] == '"' {
			_ = json.Unmarshal(value, &text) // it is a string
		}
		*to = append(*to, member{path, text})
		return
	}
	for _, m := range inner {
		flatten(m.value, strings.TrimPrefix(path+"."+m.name, "."), to)
	}
}

// historyOf returns what each event changed, newest first.
func historyOf(events []queue.Event) []update {
	all := make([]update, 0, len(events))
	var before []member
	for i, e := range events {
		var whole struct {
			Data json.RawMessage `json:"data"`
		}
		var now []member
		if json.Unmarshal(e.Body, &whole) == nil && len(whole.Data) > 0 {
			flatten(whole.Data, "", &now)
		}
		u := update{Event: e.ID.String(), Created: e.Type == string(event.Created), At: e.Created}
		if i > 0 {
			u.Changes = changesOf(before, now)
		}
		all = append(all, u)
		before = now
	}
	slices.Reverse(all)
	room := mostChanges
	for i := range all {
		for n, c := range all[i].Changes {
			if room -= fixedRow + sizeOf(c.Name) + sizeOf(c.From) + sizeOf(c.To); room < 0 {
				all[i].Changes, all[i].Left = all[i].Changes[:n], len(all[i].Changes)-n
				break
			}
		}
	}
	return all
}

// longestChange is how many characters of a value the history shows.
const longestChange = 200

func changesOf(before, now []member) (changes []change) {
	was := make(map[string]string, len(before))
	for _, m := range before {
		was[m.Name] = m.Value
	}
	for _, m := range now {
		if old, ok := was[m.Name]; !ok || old != m.Value {
			changes = append(changes, change{shorten(m.Name, 120), shorten(old, longestChange), shorten(m.Value, longestChange)})
		}
		delete(was, m.Name)
	}
	for _, m := range before {
		if _, gone := was[m.Name]; gone {
			changes = append(changes, change{shorten(m.Name, 120), shorten(m.Value, longestChange), ""})
		}
	}
	return changes
}

// deliveriesOf returns the deliveries of events, those that need attention first.
func (p pages) deliveriesOf(r *http.Request, events []queue.Event) ([]feedbackDelivery, error) {
	byID, now := p.webhooksByID(), time.Now()
	created := make(map[string]bool)
	var rows []deliveryRow
	for _, e := range slices.Backward(events) {
		row, err := p.wholeRow(r, e, byID, now)
		if err != nil {
			return nil, err
		}
		created[row.ID] = row.What == "created"
		rows = append(rows, row.Deliveries...)
	}
	troubledFirst(rows)
	all := make([]feedbackDelivery, len(rows))
	for i, row := range rows {
		all[i] = feedbackDelivery{row, created[row.Event]}
	}
	return all, nil
}
