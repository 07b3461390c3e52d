// Package command is the command line of the relay, `caddy userhero`.
//
// It promises that a command prints a table or, with --json, the API's answer
// unchanged, and that it exits with 1 and says what to do if it fails. It uses the
// API on Caddy's admin endpoint and the folder of a store; it does not know the
// modules that serve them. Its tests run the commands against prepared answers.
// The tests of caddymodule and e2e run them against a running Caddy.
package command

import (
	"strings"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "userhero",
		Usage: "<command>",
		Short: "Shows and controls UserHero Relay",
		Long: strings.TrimSpace(`
Shows which events the relay of a running Caddy has accepted and delivered,
controls its webhooks, and checks, backs up and restores its store. verify, ports,
restore, rotate-key and the commands that are given the folder of a store need no
running Caddy. All others use Caddy's admin endpoint.

Commands print tables. With --json they print the API's answer unchanged. They
exit with 0 on success, and with 1 and an error message on failure.`),
		CobraFunc: addCommands,
	})
}

// addCommands adds the commands below `caddy userhero`.
func addCommands(root *cobra.Command) {
	flags := root.PersistentFlags()
	flags.String("address", "", "Admin address of the running Caddy, or its URL; default: from --config, else localhost:2019")
	flags.StringP("config", "c", "", "Configuration file to read the admin address from if --address is not given")
	flags.StringP("adapter", "a", "", "Name of the config adapter for --config")
	root.Args = cobra.NoArgs // an unknown command is an error; otherwise it would show the help
	root.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	root.AddCommand(
		statusCommand(),
		healthCommand(),
		webhooksCommand(),
		testCommand(),
		enableCommand(),
		disableCommand(),
		feedbackCommand(),
		eventsCommand(),
		deliveriesCommand(),
		redeliverCommand(),
		activityCommand(),
		verifyCommand(),
		listenCommand(),
		checkCommand(),
		backupCommand(),
		restoreCommand(),
		rotateKeyCommand(),
		clusterCommand(),
		portsCommand(),
	)
	trimLong(root.Commands())
}

// trimLong removes the white space around long descriptions.
func trimLong(all []*cobra.Command) {
	for _, cmd := range all {
		cmd.Long = strings.TrimSpace(cmd.Long)
		trimLong(cmd.Commands())
	}
}
