package command

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

// statusAnswer is the relay at a glance.
type statusAnswer struct {
	Version         string         `json:"version"`
	UptimeSeconds   float64        `json:"uptime_seconds"`
	Healthy         bool           `json:"healthy"`
	Reason          string         `json:"reason"`
	Events          int64          `json:"events"`
	Deliveries      countsAnswer   `json:"deliveries"`
	Webhooks        map[string]int `json:"webhooks"`
	OldestDueAge    float64        `json:"oldest_due_age_seconds"`
	CommitLatencyMS float64        `json:"commit_latency_ms"`
	DiskBytes       uint64         `json:"disk_bytes"`
	DiskFreeBytes   *uint64        `json:"disk_free_bytes"`
}

// countsAnswer are deliveries by state.
type countsAnswer struct {
	Pending   int64 `json:"pending"`
	Retrying  int64 `json:"retrying"`
	Held      int64 `json:"held"`
	Failed    int64 `json:"failed"`
	Delivered int64 `json:"delivered"`
}

func statusCommand() *cobra.Command {
	return addJSON(&cobra.Command{
		Use:   "status",
		Short: "Shows the relay at a glance",
		Long: `
Shows what waits, what was delivered and what failed, the webhooks by state, and
the store. It exits with 1 where the relay is not healthy: where submissions
cannot be stored, or deliveries do not go out.`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := dial(cmd)
			if err != nil {
				return err
			}
			answer, err := c.get(cmd.Context(), "/status", nil)
			if err != nil {
				return err
			}
			if err := show(cmd, answer, showStatus); err != nil {
				return err
			}
			s, err := readAnswer[statusAnswer](answer)
			if err == nil && !s.Healthy {
				err = errors.New("the relay is not healthy: " + cell(s.Reason))
			}
			return err
		},
	})
}

func showStatus(out io.Writer, s statusAnswer) error {
	health := "ok"
	if !s.Healthy {
		health = s.Reason
	}
	due := "nothing is due"
	if s.OldestDueAge > 0 {
		due = "for " + span(s.OldestDueAge*1000)
	}
	disk := humanize.IBytes(s.DiskBytes)
	if s.DiskFreeBytes != nil {
		disk += ", " + humanize.IBytes(*s.DiskFreeBytes) + " free"
	}
	d := s.Deliveries
	t := newTable(out)
	t.row("Version", s.Version)
	t.row("Running for", (time.Duration(s.UptimeSeconds) * time.Second).String())
	t.row("Health", health)
	t.row("Webhooks", fmt.Sprintf("%d active, %d failing, %d disabled", s.Webhooks["active"], s.Webhooks["failing"], s.Webhooks["disabled"]))
	t.row("Events", humanize.Comma(s.Events))
	t.row("Deliveries", fmt.Sprintf("%s pending, %s retrying, %s held, %s failed, %s delivered",
		humanize.Comma(d.Pending), humanize.Comma(d.Retrying), humanize.Comma(d.Held), humanize.Comma(d.Failed), humanize.Comma(d.Delivered)))
	t.row("Longest due", due)
	t.row("Commits take", span(s.CommitLatencyMS))
	t.row("Disk", disk)
	return t.end()
}
