package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/userhero/relay/console/api"
)

func feedbackCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "feedback <feedback-id>",
		Short: "Shows a feedback as it is now and its events; exports and erases feedback",
		Args:  oneFeedback, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return showAnswer(cmd, http.MethodGet, withQuery(feedbackPath(args[0]), projectQuery(cmd)), nil, showFeedback)
		},
	}
	addProject(cmd)
	cmd.AddCommand(exportCommand(), eraseCommand())
	return addJSON(cmd)
}

// addProject adds the flag that chooses among feedbacks with one id.
func addProject(cmd *cobra.Command) {
	cmd.Flags().String("project", "", "The feedback's project, if several projects use the id")
	completeFlag(cmd, "project", projectNames)
}

func oneFeedback(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return errors.New("give the id of one feedback (fb_…): the answer to its submission has it, and `caddy userhero events` lists it")
	}
	return nil
}

func feedbackPath(id string) string { return "/feedback/" + url.PathEscape(id) }

func projectQuery(cmd *cobra.Command) url.Values {
	q := make(url.Values)
	if cmd.Flags().Changed("project") {
		q.Set("project", flagText(cmd, "project"))
	}
	return q
}

func showFeedback(out io.Writer, f api.Feedback) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(f.Data, &members); err != nil {
		return fmt.Errorf("reading the feedback: %w", err)
	}
	t := newTable(out)
	t.row("Feedback", f.ID)
	t.row("Project", f.ProjectID)
	for _, name := range []string{"status", "category", "rating", "createdAt", "message"} {
		if raw, ok := members[name]; ok {
			text := string(raw)
			_ = json.Unmarshal(raw, &text) // a value that is not a string is shown as JSON
			t.row(strings.ToUpper(name[:1])+name[1:], text)
		}
	}
	if err := t.end(); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "\n%s\n\n", paragraph(string(f.Data))); err != nil {
		return err
	}
	return eventList.print(out, f.Events)
}

func exportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Exports feedback as it is now, newest first, as JSON lines or CSV",
		Example: `  caddy userhero feedback export --project proj_xyz --since 30d > feedback.jsonl
  caddy userhero feedback export --format csv --filter 'data.rating <= 2' --output bad.csv`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			query, err := listQuery(cmd, "project", "filter", "since", "until", "format")
			if err != nil {
				return err
			}
			c, err := dial(cmd)
			if err != nil {
				return err
			}
			stream, err := c.stream(cmd.Context(), "/feedback?"+query.Encode())
			if err != nil {
				return err
			}
			defer func() { _ = stream.Close() }()
			out := cmd.OutOrStdout()
			if path := flagText(cmd, "output"); path != "" {
				file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
				if err != nil {
					return err
				}
				_, err = io.Copy(file, stream)
				return errors.Join(incomplete(err), file.Close())
			}
			_, err = io.Copy(out, stream)
			return incomplete(err)
		},
	}
	flags := cmd.Flags()
	flags.String("project", "", "Only feedback of this project")
	flags.String("filter", "", "CEL expression over event and data")
	flags.String("since", "", "Only feedback given since then: "+timeHelp)
	flags.String("until", "", "Only feedback given before then")
	flags.String("format", api.FormatJSON, "json, one feedback a line, or csv")
	flags.StringP("output", "o", "", "File to write, which must not exist; default: standard output")
	completeFlag(cmd, "project", projectNames)
	completeFlag(cmd, "format", oneOf(api.FormatJSON, api.FormatCSV))
	return cmd
}

// incomplete is the error of an export that broke off.
func incomplete(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("the export broke off and is incomplete: %w; look into Caddy's log", err)
}

func eraseCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "erase <feedback-id> | --filter <expression>",
		Short: "Erases feedback for good: its events, deliveries and attempts",
		Long: `
Erases one feedback, or all feedback that has an event for which the filter is true.
Waiting deliveries are cancelled, and attempts in flight end first. A repeat of erased
feedback is refused. With --compact the store gives the disk space back at once: then
none of its files holds what was erased. Backups that were made before still hold it.`,
		Example: `  caddy userhero feedback erase fb_01hq… --compact
  caddy userhero feedback erase --filter 'data.metadata.userId == "u1"' --dry-run`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 || (len(args) == 1) == (flagText(cmd, "filter") != "") {
				return errors.New("give the id of one feedback, or select feedback with --filter")
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			would, err := erase(cmd, args, true)
			if err != nil || flagSet(cmd, "dry-run") {
				if err != nil {
					return err
				}
				return show(cmd, would, showErased(cmd, "would be erased"))
			}
			count, err := decode[api.Erased](would, nil)
			if err != nil {
				return err
			}
			if err := ask(cmd, "Erase %s for good?", erasable(count)); err != nil {
				return err
			}
			answer, err := erase(cmd, args, false)
			if err != nil {
				return err
			}
			return show(cmd, answer, showErased(cmd, "erased"))
		},
	}
	flags := cmd.Flags()
	flags.String("filter", "", "CEL expression over event and data")
	flags.Bool("dry-run", false, "Count only")
	flags.Bool("compact", false, "Give the disk space back at once; this rewrites the store")
	addProject(cmd)
	return addYes(addJSON(cmd))
}

// erase asks the API to erase, or to count what it would erase.
func erase(cmd *cobra.Command, args []string, dryRun bool) ([]byte, error) {
	compact := flagSet(cmd, "compact") && !dryRun
	if len(args) == 0 {
		return send(cmd, http.MethodPost, "/erase", api.Erasure{Filter: flagText(cmd, "filter"), DryRun: dryRun, Compact: compact})
	}
	query := projectQuery(cmd)
	for name, set := range map[string]bool{"dry_run": dryRun, "compact": compact} {
		if set {
			query.Set(name, "true")
		}
	}
	return send(cmd, http.MethodDelete, withQuery(feedbackPath(args[0]), query), nil)
}

// erasable is what there is to erase: "1 feedback with 2 events, and 1 waiting delivery".
func erasable(e api.Erased) string {
	return counted(e.Feedback, "feedback", "feedbacks") + " with " + counted(e.Events, "event", "events") +
		" and " + counted(e.Cancelled, "waiting delivery", "waiting deliveries")
}

func showErased(cmd *cobra.Command, done string) func(io.Writer, api.Erased) error {
	return func(_ io.Writer, e api.Erased) error {
		if err := say(cmd, "%s %s.", erasable(e), done); err != nil || e.NotJudged == 0 {
			return err
		}
		return say(cmd, "The filter could not judge %s. The last error: %s", counted(e.NotJudged, "event", "events"), cell(e.LastError))
	}
}

func activityCommand() *cobra.Command {
	log := list[api.Activity]{
		columns: []string{"AT", "WHAT", "WHO", "WEBHOOK", "DETAIL"},
		row: func(a api.Activity) []string {
			return []string{timestamp(a.At), a.What, a.Who, a.Webhook, a.Detail}
		},
		empty: "No activity.",
	}
	cmd := &cobra.Command{
		Use:   "activity",
		Short: "Lists who changed what, what failed and recovered, and which mails went out",
		Args:  cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query, err := listQuery(cmd)
			if err != nil {
				return err
			}
			return log.show(cmd, "/activity", query)
		},
	}
	addPaging(cmd)
	return addJSON(cmd)
}
