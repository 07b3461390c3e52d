package caddymodule

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/userhero/relay/event"
)

// eventAnswer is an event; lists leave the body and the deliveries out.
type eventAnswer struct {
	ID         string           `json:"id"`
	Type       string           `json:"type"`
	FeedbackID string           `json:"feedback_id"`
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

func eventsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "events [<id>]",
		Short: "Lists the accepted events, newest first, or shows one",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return showEvent(cmd, args[0])
			}
			query, err := listQuery(cmd, "type", "since", "until", "q")
			if err != nil {
				return err
			}
			columns := []string{"ID", "CREATED", "TYPE", "FEEDBACK", "BYTES"}
			return showList(cmd, "/events", query, columns, func(e eventAnswer) []string {
				return []string{e.ID, stamp(e.CreatedAt), e.Type, e.FeedbackID, number(int64(e.Size))}
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.String("type", "", "Only of this type: feedback.created or feedback.updated")
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

func showEvent(cmd *cobra.Command, id string) error {
	c, err := dial(cmd)
	if err != nil {
		return err
	}
	answer, err := c.get(cmd.Context(), "/events/"+url.PathEscape(id), nil)
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
