package command

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/event"
)

// eventPrefix begins the ids that the relay gives to events. Clients may choose a
// feedback id that begins with it too.
const eventPrefix = "evt_"

var eventList = list[api.Event]{
	columns: []string{"ID", "CREATED", "TYPE", "RATING", "MESSAGE", "FEEDBACK"},
	row: func(e api.Event) []string {
		rating := ""
		if e.Rating != 0 {
			rating = strconv.Itoa(e.Rating)
		}
		return []string{e.ID, timestamp(e.CreatedAt), e.Type, rating, shorten(e.Message), e.FeedbackID}
	},
	empty: "No events.",
}

func eventsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "events [<event-id> | <feedback-id>]",
		Short: "Lists the accepted events, or shows one event or the events of a feedback",
		Long: `
Lists the accepted events, newest first. With the id of an event (evt_…) it shows
that event with its deliveries. With the id of a feedback (fb_…), which the answer
to a submission holds, it lists the events of that feedback. If several projects
use the id, choose one with --project.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return showEventOrFeedback(cmd, args[0])
			}
			query, err := listQuery(cmd, "type", "project", "since", "until", "q", "category", "rating", "status")
			if err != nil {
				return err
			}
			return eventList.show(cmd, "/events", query)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.String("type", "", "Only events of this type, such as feedback.created")
	flags.String("project", "", "Only events of this project")
	flags.String("since", "", "Only events accepted since then: "+timeHelp)
	flags.String("until", "", "Only events accepted before then")
	flags.String("q", "", "Only events with this text in the message, the metadata or another value that people see")
	addPaging(cmd)
	flags.String("category", "", "Only events whose feedback has this category")
	flags.String("rating", "", "Only events whose feedback has this rating, from 1 to 5")
	flags.String("status", "", "Only events whose feedback has this status")
	completeFlag(cmd, "type", oneOf(api.TypeNames()...))
	completeFlag(cmd, "project", projectNames)
	completeFlag(cmd, "rating", oneOf("1", "2", "3", "4", "5"))
	return addJSON(cmd)
}

// showEventOrFeedback shows the event of an id, or lists the events of the
// feedback of that id.
func showEventOrFeedback(cmd *cobra.Command, id string) error {
	if strings.HasPrefix(id, eventPrefix) {
		answer, err := get(cmd, "/events/"+url.PathEscape(id), nil)
		if err == nil {
			return show(cmd, answer, showEvent)
		}
		if !isNotFound(err) {
			return err
		}
	}
	events, err := feedbackEvents(cmd, id)
	if err != nil {
		return err
	}
	return showValue(cmd, api.Page[json.RawMessage]{Items: events}, eventList.page)
}

// feedbackEvents returns all events of a feedback, newest first, as the API answers
// them: of the project of --project, or of all projects that use the id. It is an
// error if there are none.
func feedbackEvents(cmd *cobra.Command, id string) (events []json.RawMessage, err error) {
	query := url.Values{"feedback_id": {id}, "limit": {"1000"}}
	if project := flagText(cmd, "project"); project != "" {
		query.Set("project", project)
	}
	for {
		page, err := decode[api.Page[json.RawMessage]](get(cmd, "/events", query))
		if err != nil {
			return nil, err
		}
		events = append(events, page.Items...)
		if page.Next == "" {
			break
		}
		query.Set("cursor", page.Next) // the store bounds the work for one answer
	}
	if len(events) == 0 {
		return nil, fmt.Errorf("there is no event and no feedback %q, or it has expired; list what is stored with `caddy userhero events`", cell(id))
	}
	return events, nil
}

func showEvent(out io.Writer, e api.Event) error {
	document, err := documentOf(e)
	if err != nil {
		return err
	}
	t := newTable(out)
	t.row("Event", e.ID)
	t.row("Type", e.Type)
	t.row("Feedback", e.FeedbackID)
	t.row("Project", e.ProjectID)
	t.row("Created", timestamp(e.CreatedAt))
	t.row("Trace", e.TraceID)
	if err := t.end(); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "\n%s\n\n", paragraph(string(document))); err != nil {
		return err
	}
	return deliveriesOfEvent.print(out, e.Deliveries)
}

// documentOf returns the exact bytes of an event's document. The API's answer holds
// it as JSON within JSON, where characters may be escaped differently.
func documentOf(e api.Event) ([]byte, error) {
	document, err := event.Canonical(e.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the body of %s: %w", e.ID, err)
	}
	if len(document) != e.Size {
		return nil, fmt.Errorf("the body of %s has %d bytes instead of %d", e.ID, len(document), e.Size)
	}
	return document, nil
}
