package command

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/userhero/relay/event"
)

// healthTime is how long a check may take. Container engines allow more.
const healthTime = 4 * time.Second

func healthCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "health [live|ready]",
		Short: "Checks the running relay, for container engines and scripts",
		Long: `
Exits with 0 if the store takes events and deliveries are sent, else with 1 and the
reason. With live, it exits with 0 if the process answers at all: a relay whose disk
is full is alive but not ready.`,
		Args: cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs), ValidArgs: []string{"live", "ready"},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), healthTime)
			defer cancel()
			c, err := dial(cmd)
			if err != nil {
				return err
			}
			_, err = c.get(ctx, "/healthz", nil)
			problem := (*event.Problem)(nil)
			if errors.As(err, &problem) && problem.Status == http.StatusServiceUnavailable && len(args) == 1 && args[0] == "live" {
				err = nil
			}
			if err == nil {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "ok")
			}
			return err
		},
	}
}
