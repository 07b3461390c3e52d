package command

import (
	"fmt"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// clearScreen moves the cursor to the top left corner and clears what is below.
const clearScreen = "\x1b[H\x1b[J"

// addWatch adds the flag --watch to a command: it is run again and again until it is
// interrupted, also if it fails. On a terminal each run takes the place of the one before.
func addWatch(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().Duration("watch", 0, "Show it again every 2s, or as often as you write, until you interrupt it")
	cmd.Flag("watch").NoOptDefVal = "2s"
	once := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		every, err := cmd.Flags().GetDuration("watch")
		if err != nil || every <= 0 {
			return once(cmd, args)
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		tick := time.NewTicker(every)
		defer tick.Stop()
		separator := "\n"
		if isTerminal(cmd.OutOrStdout()) {
			separator = clearScreen
			_, _ = fmt.Fprint(cmd.OutOrStdout(), separator)
		}
		for {
			err := once(cmd, args)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return err
			}
			if err != nil {
				cmd.PrintErrln("Error: " + err.Error())
			}
			if _, err := fmt.Fprint(cmd.OutOrStdout(), separator); err != nil {
				return err
			}
		}
	}
	return cmd
}
