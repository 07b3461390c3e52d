package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/userhero/relay/queue/badgerqueue"
)

func checkCommand() *cobra.Command {
	cmd := addJSON(&cobra.Command{
		Use:   "check [<folder>]",
		Short: "Checks the store, and saves what is readable of a damaged one",
		Long: `
Reads the whole store and reports what is wrong: checksums, records that
contradict each other, counters that do not match. Without a folder it checks the
store of the running Caddy, which continues to work. With the folder of a store that
no process has open it checks the files first. Only if they are intact does it open
the store, as Caddy would at its start.

With --salvage it writes every readable record to a new store in another folder,
which you can then give to Caddy as the queue's path. The damaged store is not
changed. If the newest version of a record is lost, the one before it is used, so a
delivery may be sent once more.

Exits with 1 if anything is wrong.`,
		Example: `  caddy userhero check
  caddy userhero check /var/lib/userhero
  caddy userhero check --salvage /var/lib/userhero.saved /var/lib/userhero`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := flagKey(cmd, "encryption-key")
			if err != nil {
				return err
			}
			to := flagText(cmd, "salvage")
			switch {
			case to != "" && len(args) == 0:
				return errors.New("--salvage needs the folder of the damaged store: caddy userhero check --salvage <new folder> <folder>")
			case to != "":
				return salvage(cmd, badgerqueue.SalvageOptions{From: args[0], To: to, EncryptionKey: key})
			}
			answer, err := checkReport(cmd, args, key)
			if err != nil {
				return err
			}
			if err := show(cmd, answer, showCheck); err != nil {
				return err
			}
			report, err := decode[badgerqueue.CheckReport](answer, nil)
			if err == nil && report.Found > 0 {
				err = fmt.Errorf("%s wrong with the store: restore a backup, or save what is readable with caddy userhero check --salvage <new folder> <folder>",
					counted(report.Found, "thing is", "things are"))
			}
			return err
		},
	})
	flags := cmd.Flags()
	flags.String("salvage", "", "Write every readable record to a new store in this folder")
	flags.String("encryption-key", "", "The store's key, "+keyHelp)
	return cmd
}

// checkReport checks the store in the folder that the arguments name, or that of
// the running Caddy, and returns the report as JSON.
func checkReport(cmd *cobra.Command, args []string, key []byte) (answer []byte, err error) {
	if len(args) == 0 {
		c, err := dial(cmd)
		if err != nil {
			return nil, err
		}
		body, err := c.stream(cmd.Context(), "/check") // may take long
		if err != nil {
			return nil, err
		}
		defer func() { _ = body.Close() }()
		return c.read(body)
	}
	err = asOwner(args[0], func() error {
		report, err := badgerqueue.CheckFolder(cmd.Context(), badgerqueue.Options{Path: args[0], EncryptionKey: key})
		if err != nil {
			return err
		}
		answer, err = json.Marshal(report)
		return err
	})
	return append(answer, '\n'), err
}

func showCheck(out io.Writer, r badgerqueue.CheckReport) error {
	t := newTable(out)
	contents(t, r.Events, r.Deliveries, r.Waiting, r.Attempts, r.Webhooks, r.Activities)
	for _, f := range r.Notes {
		t.row("Note", f.String())
	}
	for _, f := range r.Findings {
		t.row("Wrong", f.String())
	}
	if r.Found == 0 {
		t.row("Verdict", "nothing is wrong")
	}
	return t.end()
}

// contents adds how many records a store has.
func contents(t *table, events, deliveries, waiting, attempts, webhooks, activities int64) {
	t.row("Events", humanize.Comma(events))
	t.row("Deliveries", fmt.Sprintf("%s, of which %s wait", humanize.Comma(deliveries), humanize.Comma(waiting)))
	t.row("Attempts", humanize.Comma(attempts))
	t.row("Webhooks", humanize.Comma(webhooks))
	t.row("Activities", humanize.Comma(activities))
}

func salvage(cmd *cobra.Command, o badgerqueue.SalvageOptions) error {
	report, err := badgerqueue.Salvage(cmd.Context(), o)
	if err != nil {
		return err
	}
	return showValue(cmd, report, func(out io.Writer, r badgerqueue.SalvageReport) error {
		t := newTable(out)
		t.row("Saved to", o.To)
		contents(t, r.Events, r.Deliveries, r.Waiting, r.Attempts, r.Webhooks, r.Activities)
		if r.Unaddressed > 0 {
			t.row("Not addressed", fmt.Sprintf("%s have no delivery; if one of them should have had one, send it with caddy userhero redeliver",
				counted(r.Unaddressed, "event", "events")))
		}
		for _, f := range r.Lost {
			t.row("Lost", f.String())
		}
		if r.LostCount == 0 {
			t.row("Lost", "nothing")
		}
		return t.end()
	})
}
