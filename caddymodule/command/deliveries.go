package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// deliveryAnswer is one event on its way to one webhook.
type deliveryAnswer struct {
	ID            string          `json:"id"`
	EventID       string          `json:"event_id"`
	FeedbackID    string          `json:"feedback_id"`
	ProjectID     string          `json:"project_id"`
	Type          string          `json:"type"`
	Webhook       string          `json:"webhook"`
	State         string          `json:"state"`
	AttemptsMade  int             `json:"attempts_made"`
	CreatedAt     time.Time       `json:"created_at"`
	NextAttemptAt time.Time       `json:"next_attempt_at"`
	EndedAt       time.Time       `json:"ended_at"`
	Attempts      []attemptAnswer `json:"attempts"`
}

// attemptAnswer is one request and what came back.
type attemptAnswer struct {
	Number         int               `json:"number"`
	At             time.Time         `json:"at"`
	DurationMS     float64           `json:"duration_ms"`
	Status         int               `json:"status"`
	Error          string            `json:"error"`
	RequestHeaders map[string]string `json:"request_headers"`
	ResponseBody   string            `json:"response_body"`
	NextAttemptAt  time.Time         `json:"next_attempt_at"`
}

// result is what an attempt came to.
func (a attemptAnswer) result() string {
	if a.Error == "" && a.Status != 0 {
		return strconv.Itoa(a.Status)
	}
	return a.Error
}

// deliveryStates are those of the API.
var deliveryStates = []string{"pending", "retrying", "held", "delivered", "failed"}

var deliveryColumns = []string{"ID", "CREATED", "TYPE", "FEEDBACK", "WEBHOOK", "STATE", "ATTEMPTS", "NEXT", "LAST RESULT"}

// cells are the delivery as a row of deliveryColumns.
func (d deliveryAnswer) cells() []string {
	var last string
	if n := len(d.Attempts); n > 0 {
		last = d.Attempts[n-1].result()
	}
	return []string{
		d.ID, stamp(d.CreatedAt), d.Type, d.FeedbackID, d.Webhook, d.State,
		strconv.Itoa(d.AttemptsMade), stamp(d.NextAttemptAt), last,
	}
}

func deliveriesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "deliveries [<delivery-id> | <event-id> | <feedback-id>]",
		Short: "Lists the deliveries, newest first, those of an event or a feedback, or shows one with its attempts",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				if strings.HasPrefix(args[0], "dlv_") {
					return showDelivery(cmd, args[0])
				}
				return showDeliveriesOf(cmd, args[0])
			}
			query, err := listQuery(cmd, "webhook", "state", "since")
			if err != nil {
				return err
			}
			return showList(cmd, "/deliveries", query, deliveryColumns, deliveryAnswer.cells)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.String("webhook", "", "Only those to this webhook")
	flags.String("state", "", "Only those in this state: pending, retrying, held, delivered or failed")
	flags.String("since", "", "Only those of events accepted since then: "+timeHelp)
	flags.String("project", "", "With the id of a feedback: of this project, if several use the id")
	addPaging(cmd)
	completeFlag(cmd, "webhook", webhookFlag)
	completeFlag(cmd, "state", cobra.FixedCompletions(deliveryStates, cobra.ShellCompDirectiveNoFileComp))
	return addJSON(cmd)
}

// showDeliveriesOf lists the deliveries of an event, or of all events of a
// feedback, newest event first.
func showDeliveriesOf(cmd *cobra.Command, id string) error {
	c, err := dial(cmd)
	if err != nil {
		return err
	}
	ids := []string{id}
	if !strings.HasPrefix(id, eventPrefix) {
		events, err := c.feedbackEvents(cmd, id)
		if err != nil {
			return err
		}
		ids = nil
		for _, e := range events {
			event, err := readAnswer[eventAnswer](e)
			if err != nil {
				return err
			}
			ids = append(ids, event.ID)
		}
	}
	all := listAnswer[json.RawMessage]{Items: []json.RawMessage{}}
	for _, id := range ids {
		answer, err := c.get(cmd.Context(), "/events/"+url.PathEscape(id), nil)
		if err != nil {
			return err
		}
		whole, err := readAnswer[struct {
			Deliveries []json.RawMessage `json:"deliveries"`
		}](answer)
		if err != nil {
			return err
		}
		all.Items = append(all.Items, whole.Deliveries...)
	}
	answer, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return show(cmd, append(answer, '\n'), func(out io.Writer, page listAnswer[deliveryAnswer]) error {
		if len(page.Items) == 0 {
			_, err := fmt.Fprintln(out, "No webhook was to have it.")
			return err
		}
		t := newTable(out, deliveryColumns...)
		for _, d := range page.Items {
			t.row(d.cells()...)
		}
		return t.end()
	})
}

func showDelivery(cmd *cobra.Command, id string) error {
	c, err := dial(cmd)
	if err != nil {
		return err
	}
	answer, err := c.get(cmd.Context(), "/deliveries/"+url.PathEscape(id), nil)
	if err != nil {
		return err
	}
	return show(cmd, answer, func(out io.Writer, d deliveryAnswer) error {
		t := newTable(out)
		t.row("Delivery", d.ID)
		t.row("Event", d.EventID)
		t.row("Type", d.Type)
		t.row("Feedback", d.FeedbackID)
		t.row("Project", d.ProjectID)
		t.row("Webhook", d.Webhook)
		t.row("State", d.State)
		t.row("Created", stamp(d.CreatedAt))
		t.row("Next attempt", stamp(d.NextAttemptAt))
		t.row("Ended", stamp(d.EndedAt))
		if err := t.end(); err != nil || len(d.Attempts) == 0 {
			return err
		}
		if _, err := fmt.Fprintln(out); err != nil {
			return err
		}
		t = newTable(out, "ATTEMPT", "AT", "TOOK", "RESULT", "ANSWER")
		for _, a := range d.Attempts {
			t.row(strconv.Itoa(a.Number), stamp(a.At), span(a.DurationMS), a.result(), excerpt(a.ResponseBody))
		}
		return t.end()
	})
}

// excerpt is the beginning of a text, for a cell.
func excerpt(text string) string {
	const most = 60 // characters
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return text
}

func redeliverCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "redeliver <delivery-id> | --webhook <name>",
		Short: "Delivers again: one delivery, or what a webhook has not got",
		Long: `
Delivers again, each with a fresh ladder of retries: one delivery, whatever its
state, or what a webhook has not got. The latter is what failed; with --since
also what it missed while it was disabled. With --waiting it is what waits for
its next retry: it is sent now instead, for example after an outage. Count first
with --dry-run.`,
		Example: `  caddy userhero redeliver --webhook crm --dry-run
  caddy userhero redeliver --webhook crm --waiting
  caddy userhero redeliver --webhook crm --state missed --since 2d`,
		Args: func(cmd *cobra.Command, args []string) error {
			name := flagText(cmd, "webhook")
			if len(args) > 1 || (len(args) == 1) == (name != "") {
				return errors.New("give one delivery's id, or a webhook with --webhook; `caddy userhero deliveries --state failed` lists what failed")
			}
			for _, flag := range []string{"state", "waiting", "since", "until", "dry-run"} {
				if name == "" && cmd.Flags().Changed(flag) {
					return fmt.Errorf("--%s goes with --webhook, not with one delivery", flag)
				}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return redeliverOne(cmd, args[0])
			}
			return redeliverMany(cmd, flagText(cmd, "webhook"))
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) (ids []cobra.Completion, _ cobra.ShellCompDirective) {
			if len(args) > 0 || flagText(cmd, "webhook") != "" {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			for _, d := range completed[deliveryAnswer](cmd, "/deliveries?state=failed") {
				ids = append(ids, cobra.CompletionWithDesc(cell(d.ID), cell(d.FeedbackID+" to "+d.Webhook)))
			}
			return ids, cobra.ShellCompDirectiveNoFileComp
		},
	}
	flags := cmd.Flags()
	flags.String("webhook", "", "Deliver again what this webhook has not got")
	flags.String("state", "", "Only what failed, only what was missed, or what waits for a retry: failed, missed or waiting")
	flags.Bool("waiting", false, "Send now what waits for its next retry; the same as --state waiting")
	flags.String("since", "", "Only events accepted since then: "+timeHelp)
	flags.String("until", "", "Only events accepted before then")
	flags.Bool("dry-run", false, "Count only")
	completeFlag(cmd, "webhook", webhookFlag)
	completeFlag(cmd, "state", cobra.FixedCompletions([]cobra.Completion{"failed", "missed", "waiting"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.MarkFlagsMutuallyExclusive("state", "waiting")
	return addJSON(cmd)
}

func redeliverOne(cmd *cobra.Command, id string) error {
	c, err := dial(cmd)
	if err != nil {
		return err
	}
	answer, err := c.post(cmd.Context(), "/deliveries/"+url.PathEscape(id)+"/redeliver", nil)
	if err != nil {
		return err
	}
	if flagSet(cmd, "json") {
		_, err := cmd.OutOrStdout().Write(answer)
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is delivered again; `caddy userhero deliveries %[1]s` shows what comes of it.\n", cell(id))
	return err
}

func redeliverMany(cmd *cobra.Command, webhook string) error {
	since, err := flagTime(cmd, "since")
	if err != nil {
		return err
	}
	until, err := flagTime(cmd, "until")
	if err != nil {
		return err
	}
	c, err := dial(cmd)
	if err != nil {
		return err
	}
	state, dry := flagText(cmd, "state"), flagSet(cmd, "dry-run")
	if flagSet(cmd, "waiting") {
		state = "waiting"
	}
	answer, err := postWebhook(cmd, c, webhook, "redeliver", struct {
		State  string    `json:"state,omitempty"`
		Since  time.Time `json:"since,omitzero"`
		Until  time.Time `json:"until,omitzero"`
		DryRun bool      `json:"dry_run,omitempty"`
	}{state, since, until, dry})
	if err != nil {
		return err
	}
	type countAnswer struct {
		Count int64 `json:"count"`
	}
	return show(cmd, answer, func(out io.Writer, a countAnswer) error {
		sentence := counted(a.Count, "delivery is queued again.", "deliveries are queued again.")
		if dry {
			sentence = counted(a.Count, "delivery would be queued again.", "deliveries would be queued again.")
		}
		_, err := fmt.Fprintln(out, sentence)
		return err
	})
}
