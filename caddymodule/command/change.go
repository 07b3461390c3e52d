package command

import (
	"bufio"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// errUnchanged: the person who was asked did not say yes.
var errUnchanged = errors.New("nothing was changed; answer y, or add --yes")

// addYes adds the flag --yes to a command that asks before it changes something.
func addYes(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolP("yes", "y", false, "Do not ask")
	return cmd
}

// ask asks a question on standard error unless --yes is set. It returns errUnchanged
// unless the answer begins with y.
func ask(cmd *cobra.Command, format string, args ...any) error {
	if flagSet(cmd, "yes") {
		return nil
	}
	cmd.PrintErrf(format+" [y/N] ", args...)
	answer, _ := bufio.NewReader(cmd.InOrStdin()).ReadString('\n') // no answer is no
	if a := strings.ToLower(strings.TrimSpace(answer)); a == "y" || a == "yes" {
		return nil
	}
	return errUnchanged
}

// askPerson is ask if a person can answer. Scripts of before there was a question go on.
func askPerson(cmd *cobra.Command, format string, args ...any) error {
	if !isTerminal(cmd.InOrStdin()) {
		return nil
	}
	return ask(cmd, format, args...)
}

// say prints what was done.
func say(cmd *cobra.Command, format string, args ...any) error {
	_, err := fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...)
	return err
}
