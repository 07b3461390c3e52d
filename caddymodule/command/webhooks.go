package command

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/userhero/relay/event"
)

// webhookAnswer is a webhook.
type webhookAnswer struct {
	Name        string       `json:"name"`
	URL         string       `json:"url"`
	Source      string       `json:"source"`
	State       string       `json:"state"`
	Reason      string       `json:"reason"`
	LastSuccess time.Time    `json:"last_success"`
	Counts      countsAnswer `json:"counts"`
}

// testAnswer is what came of a test send.
type testAnswer struct {
	OK             bool              `json:"ok"`
	Status         int               `json:"status"`
	DurationMS     float64           `json:"duration_ms"`
	Error          string            `json:"error"`
	ResponseBody   string            `json:"response_body"`
	RequestHeaders map[string]string `json:"request_headers"`
}

func webhooksCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "webhooks",
		Short: "Lists the webhooks, their states and what waits for them",
		Args:  cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := make(url.Values)
			if cursor := flagText(cmd, "cursor"); cursor != "" {
				query.Set("cursor", cursor)
			}
			columns := []string{"NAME", "STATE", "WAITING", "FAILED", "DELIVERED", "LAST SUCCESS", "SOURCE", "URL", "REASON"}
			return showList(cmd, "/webhooks", query, columns, func(w webhookAnswer) []string {
				return []string{
					w.Name, w.State, number(w.Counts.Pending + w.Counts.Retrying + w.Counts.Held), number(w.Counts.Failed),
					number(w.Counts.Delivered), stamp(w.LastSuccess), w.Source, w.URL, w.Reason,
				}
			})
		},
	}
	cmd.Flags().String("cursor", "", "Go on where the page before ended")
	return addJSON(cmd)
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

func testCommand() *cobra.Command {
	return addJSON(&cobra.Command{
		Use:   "test <name>",
		Short: "Sends the sample event to a webhook, now",
		Long: `
Sends the sample event through the same signer, client and egress guard as real
deliveries, with X-UserHero-Test: true, and shows what was sent and what came
back. It does not touch the webhook's state. It exits with 1 where the answer is
not of success.`,
		Args:              oneName,
		ValidArgsFunction: webhookNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := dial(cmd)
			if err != nil {
				return err
			}
			answer, err := postWebhook(cmd, c, args[0], "test", nil)
			if err != nil {
				return err
			}
			if err := show(cmd, answer, showTest); err != nil {
				return err
			}
			result, err := readAnswer[testAnswer](answer)
			if err == nil && !result.OK {
				err = errors.New("the webhook did not take the test: " + cell(result.Error))
			}
			return err
		},
	})
}

func showTest(out io.Writer, a testAnswer) error {
	t := newTable(out)
	for _, name := range slices.Sorted(maps.Keys(a.RequestHeaders)) {
		t.row("> "+name+":", a.RequestHeaders[name])
	}
	result := a.Error
	if a.Status != 0 {
		result = strconv.Itoa(a.Status)
	}
	t.row("< status:", result)
	t.row("< after:", span(a.DurationMS))
	if err := t.end(); err != nil || a.ResponseBody == "" {
		return err
	}
	_, err := fmt.Fprintf(out, "\n%s\n", paragraph(a.ResponseBody))
	return err
}

func enableCommand() *cobra.Command {
	return addJSON(&cobra.Command{
		Use:   "enable <name>",
		Short: "Lets a webhook have events again, and releases what waits for it",
		Long: `
Lets a webhook have events again, and releases what waits for it. What it missed
while it was disabled is sent by: caddy userhero redeliver --webhook <name>
--state missed --since <time>`,
		Args:              oneName,
		ValidArgsFunction: webhookNames,
		RunE:              toggle("enable"),
	})
}

func disableCommand() *cobra.Command {
	return addJSON(&cobra.Command{
		Use:   "disable <name>",
		Short: "Pauses a webhook: it gets no new events, and what waits is held",
		Args:  oneName, ValidArgsFunction: webhookNames,
		RunE: toggle("disable"),
	})
}

// toggle enables or disables a webhook, and shows its state after.
func toggle(verb string) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := dial(cmd)
		if err != nil {
			return err
		}
		answer, err := postWebhook(cmd, c, args[0], verb, nil)
		if err != nil {
			return err
		}
		return show(cmd, answer, func(out io.Writer, w webhookAnswer) error {
			waiting := w.Counts.Pending + w.Counts.Retrying + w.Counts.Held
			_, err := fmt.Fprintf(out, "%s is %s; %s for it.\n", cell(w.Name), cell(w.State), counted(waiting, "delivery waits", "deliveries wait"))
			return err
		})
	}
}

// counted is a number with its noun and verb.
func counted(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return number(n) + " " + many
}

// oneName wants the name of a webhook.
func oneName(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return errors.New("give the name of one webhook; `caddy userhero webhooks` lists them")
	}
	return nil
}

// postWebhook has the API do something with a webhook.
func postWebhook(cmd *cobra.Command, c *adminClient, name, verb string, in any) ([]byte, error) {
	answer, err := c.post(cmd.Context(), "/webhooks/"+url.PathEscape(name)+"/"+verb, in)
	if problem := (*event.Problem)(nil); errors.As(err, &problem) && problem.Status == http.StatusNotFound {
		return nil, fmt.Errorf("webhook %q: %w `caddy userhero webhooks` lists those there are", name, err)
	}
	return answer, err
}
