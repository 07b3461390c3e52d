package command

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/relay"
)

var webhookList = list[api.Webhook]{
	columns: []string{"NAME", "STATE", "WAITING", "FAILED", "DELIVERED", "LAST SUCCESS", "SOURCE", "PROJECTS", "URL", "REASON"},
	row: func(w api.Webhook) []string {
		state, reason := stateOf(w)
		return []string{
			w.Name, state, number(w.Counts.Waiting()), number(w.Counts.Failed),
			number(w.Counts.Delivered), timestamp(w.LastSuccess), w.Source, cmp.Or(strings.Join(w.Projects, " "), "all"), w.URL, reason,
		}
	},
	empty: "No webhook yet. Add one with `caddy userhero webhooks add`, or in the Caddyfile.",
}

// stateOf returns the state of a webhook and its reason, as people read them: a person
// pauses a webhook; a 410 or the Caddyfile disables it.
func stateOf(w api.Webhook) (state, reason string) {
	if who, ok := relay.PausedBy(w.Reason); ok && w.State == relay.Disabled {
		return "paused", "paused by " + who
	}
	return w.State, w.Reason
}

func webhooksCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "webhooks [<name>]",
		Short: "Lists the webhooks, their states and how many deliveries wait; shows or changes one",
		Args:  cobra.MaximumNArgs(1), ValidArgsFunction: webhookArgument,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return showAnswer(cmd, http.MethodGet, webhookPath(args[0], ""), nil, showWebhook)
			}
			query := make(url.Values)
			if cursor := flagText(cmd, "cursor"); cursor != "" {
				query.Set("cursor", cursor)
			}
			return webhookList.show(cmd, "/webhooks", query)
		},
	}
	cmd.Flags().String("cursor", "", "Continue after the previous page")
	cmd.AddCommand(addWebhookCommand(), setWebhookCommand(), renameWebhookCommand(), rotateWebhookCommand(), rotateSigningKeyCommand(), deleteWebhookCommand())
	return addJSON(cmd)
}

func testCommand() *cobra.Command {
	return addJSON(&cobra.Command{
		Use:   "test <name>",
		Short: "Sends the sample event to a webhook now",
		Long: `
Sends the sample event as a real delivery is sent, through the same signing, client
and egress guard, with X-UserHero-Test: true. Shows the request and the answer. The
webhook's state does not change. Exits with 1 if the test fails.`,
		Args:              oneName,
		ValidArgsFunction: webhookArgument,
		RunE: func(cmd *cobra.Command, args []string) error {
			answer, err := send(cmd, http.MethodPost, webhookPath(args[0], "/test"), nil)
			if err != nil {
				return err
			}
			if err := show(cmd, answer, showTest); err != nil {
				return err
			}
			result, err := decode[api.TestResult](answer, nil)
			if err == nil && !result.OK {
				err = errors.New("the test failed: " + cell(result.Error))
			}
			return err
		},
	})
}

func showTest(out io.Writer, r api.TestResult) error {
	t := newTable(out)
	for _, name := range slices.Sorted(maps.Keys(r.RequestHeaders)) {
		t.row("> "+name+":", r.RequestHeaders[name])
	}
	status := r.Error
	if r.Status != 0 {
		status = strconv.Itoa(r.Status)
	}
	t.row("< status:", status)
	t.row("< after:", milliseconds(r.DurationMS))
	if err := t.end(); err != nil || r.ResponseBody == "" {
		return err
	}
	_, err := fmt.Fprintf(out, "\n%s\n", paragraph(r.ResponseBody))
	return err
}

func enableCommand() *cobra.Command {
	return addYes(addJSON(&cobra.Command{
		Use:   "enable <name>",
		Short: "Resumes or enables a webhook; its held deliveries are sent",
		Long: `
Resumes a paused webhook, or enables a disabled one: it gets new events again, and
its held deliveries are sent. To send what it missed, use: caddy userhero redeliver
--webhook <name> --state missed --since <time>`,
		Args:              oneName,
		ValidArgsFunction: webhookArgument,
		RunE:              changeState("enable", "Resume or enable %s?"),
	}))
}

func disableCommand() *cobra.Command {
	return addYes(addJSON(&cobra.Command{
		Use:   "disable <name>",
		Short: "Pauses a webhook: new events are not queued for it, and its waiting deliveries are held",
		Args:  oneName, ValidArgsFunction: webhookArgument,
		RunE: changeState("disable", "Pause %s?"),
	}))
}

// changeState enables or disables a webhook and shows its new state.
func changeState(action, question string) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := askPerson(cmd, question, cell(args[0])); err != nil {
			return err
		}
		return showAnswer(cmd, http.MethodPost, webhookPath(args[0], "/"+action), nil, func(out io.Writer, w api.Webhook) error {
			state, _ := stateOf(w)
			next := counted(w.Counts.Waiting(), "delivery waits", "deliveries wait") + " for it."
			if w.State == relay.Disabled {
				next = "New events are not queued for it, and " + counted(w.Counts.Waiting(), "waiting delivery is held", "waiting deliveries are held") +
					fmt.Sprintf(". Resume it with `caddy userhero enable %s`.", cell(w.Name))
			}
			_, err := fmt.Fprintf(out, "%s is %s. %s\n", cell(w.Name), cell(state), next)
			return err
		})
	}
}

// oneName checks that the argument is the name of one webhook.
func oneName(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return errors.New("give the name of one webhook; list them with `caddy userhero webhooks`")
	}
	return nil
}
