package command

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/userhero/relay/console/api"
)

var deliveryList = list[api.Delivery]{
	columns: []string{"ID", "CREATED", "TYPE", "FEEDBACK", "WEBHOOK", "STATE", "ATTEMPTS", "NEXT", "LAST RESULT"},
	row: func(d api.Delivery) []string {
		var last string
		if n := len(d.Attempts); n > 0 {
			last = resultOf(d.Attempts[n-1])
		}
		return []string{
			d.ID, timestamp(d.CreatedAt), d.Type, d.FeedbackID, d.Webhook, d.State,
			strconv.Itoa(d.AttemptsMade), timestamp(d.NextAttemptAt), last,
		}
	},
	empty: "No deliveries.",
}

// deliveriesOfEvent lists the deliveries of one event.
var deliveriesOfEvent = list[api.Delivery]{columns: deliveryList.columns, row: deliveryList.row, empty: "No webhook wanted this event."}

// resultOf is the status of an attempt, or its error.
func resultOf(a api.Attempt) string {
	if a.Error == "" && a.Status != 0 {
		return strconv.Itoa(a.Status)
	}
	return a.Error
}

func deliveriesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "deliveries [<delivery-id> | <event-id> | <feedback-id>]",
		Short: "Lists the deliveries, or shows one with its attempts or those of an event or a feedback",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				query, err := listQuery(cmd, "webhook", "state", "since")
				if err != nil {
					return err
				}
				return deliveryList.show(cmd, "/deliveries", query)
			}
			if !strings.HasPrefix(args[0], "dlv_") {
				return showDeliveriesOf(cmd, args[0])
			}
			return showAnswer(cmd, http.MethodGet, "/deliveries/"+url.PathEscape(args[0]), nil, showDelivery)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.String("webhook", "", "Only deliveries to this webhook")
	flags.String("state", "", "Only deliveries in this state: pending, retrying, held, delivered or failed")
	flags.String("since", "", "Only deliveries of events accepted since then: "+timeHelp)
	flags.String("project", "", "The project of the feedback, if several projects use its id")
	addPaging(cmd)
	completeFlag(cmd, "webhook", webhookNames)
	completeFlag(cmd, "state", oneOf(api.StatePending, api.StateRetrying, api.StateHeld, api.StateDelivered, api.StateFailed))
	return addWatch(addJSON(cmd))
}

// showDeliveriesOf lists the deliveries of an event, or of all events of a
// feedback, newest event first.
func showDeliveriesOf(cmd *cobra.Command, id string) error {
	ids := []string{id}
	if !strings.HasPrefix(id, eventPrefix) {
		events, err := feedbackEvents(cmd, id)
		if err != nil {
			return err
		}
		ids = nil
		for _, e := range events {
			event, err := decode[api.Event](e, nil)
			if err != nil {
				return err
			}
			ids = append(ids, event.ID)
		}
	}
	all := api.Page[json.RawMessage]{Items: []json.RawMessage{}}
	for _, id := range ids {
		event, err := decode[struct { // --json prints them unchanged
			Deliveries []json.RawMessage `json:"deliveries"`
		}](get(cmd, "/events/"+url.PathEscape(id), nil))
		if err != nil {
			return err
		}
		all.Items = append(all.Items, event.Deliveries...)
	}
	return showValue(cmd, all, deliveriesOfEvent.page)
}

func showDelivery(out io.Writer, d api.Delivery) error {
	t := newTable(out)
	t.row("Delivery", d.ID)
	t.row("Event", d.EventID)
	t.row("Type", d.Type)
	t.row("Feedback", d.FeedbackID)
	t.row("Project", d.ProjectID)
	t.row("Webhook", d.Webhook)
	t.row("State", d.State)
	t.row("Created", timestamp(d.CreatedAt))
	t.row("Next attempt", timestamp(d.NextAttemptAt))
	t.row("Ended", timestamp(d.EndedAt))
	if err := t.end(); err != nil || len(d.Attempts) == 0 {
		return err
	}
	if _, err := fmt.Fprintln(out); err != nil {
		return err
	}
	t = newTable(out, "ATTEMPT", "AT", "TOOK", "RESULT", "ANSWER")
	for _, a := range d.Attempts {
		t.row(strconv.Itoa(a.Number), timestamp(a.At), milliseconds(a.DurationMS), resultOf(a), shorten(a.ResponseBody))
	}
	return t.end()
}
