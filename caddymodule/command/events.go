package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/userhero/relay/event"
)

// eventAnswer is an event; lists leave the body and the deliveries out.
type eventAnswer struct {
	ID         string           `json:"id"`
	Type       string           `json:"type"`
	FeedbackID string           `json:"feedback_id"`
	ProjectID  string           `json:"project_id"`
	CreatedAt  time.Time        `json:"created_at"`
	Size       int              `json:"size"`
	TraceID    string           `json:"trace_id"`
	Body       json.RawMessage  `json:"body"`
	Deliveries []deliveryAnswer `json:"deliveries"`
}

// document are the exact bytes of the event: in the API's answer they are
// JSON within JSON, which may be escaped in other ways.
func (e eventAnswer) document() ([]byte, error) {
	doc, err := event.Canonical(e.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the body of %s: %w", e.ID, err)
	}
	if len(doc) != e.Size {
		return nil, fmt.Errorf("the body of %s came with %d bytes of %d", e.ID, len(doc), e.Size)
	}
	return doc, nil
}

var eventColumns = []string{"ID", "CREATED", "TYPE", "FEEDBACK", "BYTES"}

// cells are the event as a row of eventColumns.
func (e eventAnswer) cells() []string {
	return []string{e.ID, stamp(e.CreatedAt), e.Type, e.FeedbackID, number(int64(e.Size))}
}

func eventsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "events [<event-id> | <feedback-id>]",
		Short: "Lists the accepted events, newest first, or shows one, or a feedback's",
		Long: `
Lists the accepted events, newest first. With the id of an event (evt_…) it shows
that event with its deliveries. With the id of a feedback (fb_…), as a submission
is answered with, it lists the events of that feedback. Several projects may use
the same id: --project says which is meant.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return showEventOrFeedback(cmd, args[0])
			}
			query, err := listQuery(cmd, "type", "project", "since", "until", "q")
			if err != nil {
				return err
			}
			return showList(cmd, "/events", query, eventColumns, eventAnswer.cells)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.String("type", "", "Only of this type: feedback.created or feedback.updated")
	flags.String("project", "", "Only those of this project")
	flags.String("since", "", "Only those accepted since then: "+timeHelp)
	flags.String("until", "", "Only those accepted before then")
	flags.String("q", "", "Only those whose document contains this text")
	addPaging(cmd)
	var types []cobra.Completion
	for _, t := range event.Types() {
		types = append(types, string(t))
	}
	completeFlag(cmd, "type", cobra.FixedCompletions(types, cobra.ShellCompDirectiveNoFileComp))
	return addJSON(cmd)
}

// eventPrefix begins the ids that the relay gives to events. A feedback's id may
// begin so too, since clients may choose it.
const eventPrefix = "evt_"

// showEventOrFeedback shows the event of an id, or lists the events of the
// feedback of that id.
func showEventOrFeedback(cmd *cobra.Command, id string) error {
	c, err := dial(cmd)
	if err != nil {
		return err
	}
	if strings.HasPrefix(id, eventPrefix) {
		answer, err := c.get(cmd.Context(), "/events/"+url.PathEscape(id), nil)
		if !isNotFound(err) {
			return showEvent(cmd, answer, err)
		}
	}
	events, err := c.feedbackEvents(cmd, id)
	if err != nil {
		return err
	}
	answer, err := json.Marshal(listAnswer[json.RawMessage]{Items: events})
	if err != nil {
		return err
	}
	return show(cmd, append(answer, '\n'), func(out io.Writer, page listAnswer[eventAnswer]) error {
		t := newTable(out, eventColumns...)
		for _, e := range page.Items {
			t.row(e.cells()...)
		}
		return t.end()
	})
}

// feedbackEvents are all events of a feedback, newest first, as the API answers
// them; of the project of --project, or of all that use its id. None is an error.
func (c *adminClient) feedbackEvents(cmd *cobra.Command, id string) (events []json.RawMessage, err error) {
	query := url.Values{"feedback_id": {id}, "limit": {"1000"}}
	if project := flagText(cmd, "project"); project != "" {
		query.Set("project", project)
	}
	for {
		answer, err := c.get(cmd.Context(), "/events", query)
		if err != nil {
			return nil, err
		}
		page, err := readAnswer[listAnswer[json.RawMessage]](answer)
		if err != nil {
			return nil, err
		}
		events = append(events, page.Items...)
		if page.Next == "" {
			break
		}
		query.Set("cursor", page.Next) // the store bounds the work of one answer
	}
	if len(events) == 0 {
		return nil, fmt.Errorf("there is no event and no feedback %q, or it has expired; `caddy userhero events` lists what is kept", cell(id))
	}
	return events, nil
}

func isNotFound(err error) bool {
	problem := (*event.Problem)(nil)
	return errors.As(err, &problem) && problem.Status == http.StatusNotFound
}

// showEvent prints an event, or returns why it could not be read.
func showEvent(cmd *cobra.Command, answer []byte, err error) error {
	if err != nil {
		return err
	}
	return show(cmd, answer, func(out io.Writer, e eventAnswer) error {
		doc, err := e.document()
		if err != nil {
			return err
		}
		t := newTable(out)
		t.row("Event", e.ID)
		t.row("Type", e.Type)
		t.row("Feedback", e.FeedbackID)
		t.row("Project", e.ProjectID)
		t.row("Created", stamp(e.CreatedAt))
		t.row("Trace", e.TraceID)
		if err := t.end(); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "\n%s\n\n", paragraph(string(doc))); err != nil {
			return err
		}
		if len(e.Deliveries) == 0 {
			_, err := fmt.Fprintln(out, "No webhook was to have it.")
			return err
		}
		t = newTable(out, deliveryColumns...)
		for _, d := range e.Deliveries {
			t.row(d.cells()...)
		}
		return t.end()
	})
}
