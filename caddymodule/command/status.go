package command

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/userhero/relay/console/api"
)

func statusCommand() *cobra.Command {
	return addWatch(addJSON(&cobra.Command{
		Use:   "status",
		Short: "Shows the state of the relay",
		Long: `
Shows how many deliveries wait, were delivered and failed, the webhooks by state,
and the store. Exits with 1 if the relay is not healthy: submissions cannot be
stored, or deliveries are not sent.`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			answer, err := get(cmd, "/status", nil)
			if err != nil {
				return err
			}
			if err := show(cmd, answer, showStatus); err != nil {
				return err
			}
			s, err := decode[api.Status](answer, nil)
			if err == nil && !s.Healthy {
				err = errors.New("the relay is not healthy: " + cell(s.Reason))
			}
			return err
		},
	}))
}

// countsMayLag is how old counts may be before the status shows their time.
const countsMayLag = 10 * time.Second

func showStatus(out io.Writer, s api.Status) error {
	health := "ok"
	if !s.Healthy {
		health = s.Reason
	}
	due := "nothing is due"
	if s.OldestDueAge > 0 {
		due = milliseconds(s.OldestDueAge*1000) + " ago"
	}
	d := s.Deliveries
	t := newTable(out)
	t.row("Version", s.Version)
	t.row("Running for", (time.Duration(s.UptimeSeconds) * time.Second).String())
	t.row("Health", health)
	t.row("Webhooks", fmt.Sprintf("%d active, %d failing, %d paused or disabled", s.Webhooks["active"], s.Webhooks["failing"], s.Webhooks["disabled"]))
	t.row("Deliveries", fmt.Sprintf("%s pending, %s retrying, %s held, %s failed, %s delivered",
		humanize.Comma(d.Pending), humanize.Comma(d.Retrying), humanize.Comma(d.Held), humanize.Comma(d.Failed), humanize.Comma(d.Delivered)))
	t.row("Oldest due", due)
	if store := s.StoreStatus; store != nil {
		disk := humanize.IBytes(uint64(store.DiskBytes))
		if store.DiskFreeBytes != nil {
			disk += ", " + humanize.IBytes(uint64(*store.DiskFreeBytes)) + " free"
		}
		if lag := time.Since(store.CountsAsOf); !store.CountsAsOf.IsZero() && lag > countsMayLag {
			t.row("Counts as of", timestamp(store.CountsAsOf))
		}
		if store.LanesOwned != nil {
			t.row("Delivers to", fmt.Sprintf("%d webhooks and mailboxes; other relays deliver to the rest", *store.LanesOwned))
		}
		t.row("Events", humanize.Comma(store.Events))
		t.row("Commits take", milliseconds(store.CommitLatencyMS))
		t.row("Disk", disk)
		if !store.LastBackup.IsZero() {
			t.row("Last backup", timestamp(store.LastBackup))
		}
	}
	return t.end()
}
