package command

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/userhero/relay/console/api"
)

func redeliverCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "redeliver <delivery-id> | --webhook <name>",
		Short: "Delivers again: one delivery, or what a webhook did not get",
		Long: `
Delivers again, each time with all retries: one delivery in any state, or what a
webhook did not get. That is what failed; with --since also what it missed while it
was paused or disabled. With --waiting it is what waits for its next retry: it is
sent now instead, for example after an outage. Count first with --dry-run.`,
		Example: `  caddy userhero redeliver --webhook crm --dry-run
  caddy userhero redeliver --webhook crm --waiting
  caddy userhero redeliver --webhook crm --state missed --since 2d`,
		Args: func(cmd *cobra.Command, args []string) error {
			name := flagText(cmd, "webhook")
			if len(args) > 1 || (len(args) == 1) == (name != "") {
				return errors.New("give one delivery's id, or a webhook with --webhook; list what failed with `caddy userhero deliveries --state failed`")
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
			for _, d := range completions[api.Delivery](cmd, "/deliveries?state=failed") {
				ids = append(ids, cobra.CompletionWithDesc(cell(d.ID), cell(d.FeedbackID+" to "+d.Webhook)))
			}
			return ids, cobra.ShellCompDirectiveNoFileComp
		},
	}
	flags := cmd.Flags()
	flags.String("webhook", "", "Deliver again what this webhook did not get")
	flags.String("state", "", "Only what failed, only what was missed, or what waits for a retry: failed, missed or waiting")
	flags.Bool("waiting", false, "Send now what waits for its next retry; the same as --state waiting")
	flags.String("since", "", "Only events accepted since then: "+timeHelp)
	flags.String("until", "", "Only events accepted before then")
	flags.Bool("dry-run", false, "Count only")
	completeFlag(cmd, "webhook", webhookNames)
	completeFlag(cmd, "state", oneOf(api.StateFailed, api.StateMissed, api.StateWaiting))
	cmd.MarkFlagsMutuallyExclusive("state", "waiting")
	return addYes(addJSON(cmd))
}

func redeliverOne(cmd *cobra.Command, id string) error {
	return showAnswer(cmd, http.MethodPost, "/deliveries/"+url.PathEscape(id)+"/redeliver", nil, func(out io.Writer, _ api.Delivery) error {
		_, err := fmt.Fprintf(out, "%s is queued again. See the result with `caddy userhero deliveries %[1]s`.\n", cell(id))
		return err
	})
}

func redeliverMany(cmd *cobra.Command, webhook string) error {
	r := api.Recovery{State: flagText(cmd, "state"), DryRun: flagSet(cmd, "dry-run")}
	if flagSet(cmd, "waiting") {
		r.State = api.StateWaiting
	}
	var err error
	if r.Since, err = flagTime(cmd, "since"); err != nil {
		return err
	}
	if r.Until, err = flagTime(cmd, "until"); err != nil {
		return err
	}
	path := webhookPath(webhook, "/redeliver")
	if !r.DryRun && isTerminal(cmd.InOrStdin()) && !flagSet(cmd, "yes") {
		count := r
		count.DryRun = true
		n, err := decode[api.Recovered](send(cmd, http.MethodPost, path, count))
		if err != nil {
			return err
		}
		if err := ask(cmd, "Deliver %s to %s again?", counted(n.Count, "delivery", "deliveries"), cell(webhook)); err != nil {
			return err
		}
	}
	return showAnswer(cmd, http.MethodPost, path, r, func(out io.Writer, recovered api.Recovered) error {
		sentence := counted(recovered.Count, "delivery is queued again.", "deliveries are queued again.")
		if r.DryRun {
			sentence = counted(recovered.Count, "delivery would be queued again.", "deliveries would be queued again.")
		}
		_, err := fmt.Fprintln(out, sentence)
		return err
	})
}
