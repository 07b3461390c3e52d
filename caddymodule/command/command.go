// Package command is the command line of the relay, `caddy userhero`.
//
// It promises that a command prints a table or, with --json, the API's answer as
// it came, and that it exits with 1 and says what to do if it fails. It knows the
// API on Caddy's admin endpoint and the store's folder, and nothing of the modules
// that serve them. Its tests run the commands against written answers; those
// against a running Caddy are caddymodule's.
package command

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "userhero",
		Usage: "<command>",
		Short: "Watches and steers UserHero Relay",
		Long: strings.TrimSpace(`
Shows what the relay of a running Caddy has accepted and delivered, and steers
its webhooks; checks, backs up and restores its store. Those that are given the
folder of a store need no running Caddy, nor does verify; the others talk to Caddy's
admin endpoint.

They print tables for people; with --json they print the API's answer as it
came. They exit with 0 on success, and with 1 and a message otherwise.`),
		CobraFunc: addCommands,
	})
}

// addCommands puts the commands below `caddy userhero`.
func addCommands(root *cobra.Command) {
	flags := root.PersistentFlags()
	flags.String("address", "", "The admin address of the running Caddy, or its URL; default: the configuration's, or localhost:2019")
	flags.StringP("config", "c", "", "Configuration file in which to look for the admin address, where --address is not given")
	flags.StringP("adapter", "a", "", "Name of the config adapter for --config")
	root.Args = cobra.NoArgs // an unknown command is an error, not a reason for the help
	root.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	root.AddCommand(
		statusCommand(),
		webhooksCommand(),
		testCommand(),
		enableCommand(),
		disableCommand(),
		eventsCommand(),
		deliveriesCommand(),
		redeliverCommand(),
		verifyCommand(),
		listenCommand(),
		checkCommand(),
		backupCommand(),
		restoreCommand(),
		rotateKeyCommand(),
		portsCommand(),
	)
	for _, cmd := range root.Commands() {
		cmd.Long = strings.TrimSpace(cmd.Long)
	}
}

// dial prepares talking to the admin endpoint that the flags name. It does not
// connect yet.
func dial(cmd *cobra.Command) (*adminClient, error) {
	address, err := adminAddress(cmd)
	if err != nil {
		return nil, err
	}
	return newAdminClient(address)
}

// adminSettings are what a configuration says about Caddy's admin endpoint.
type adminSettings struct {
	Disabled bool   `json:"disabled"`
	Listen   string `json:"listen"`
}

// adminAddress is the address that the flags name. Caddy's own search for it does
// not look whether the configuration has turned its admin endpoint off: what
// listens at the default address then is another Caddy.
func adminAddress(cmd *cobra.Command) (string, error) {
	address, file := flagText(cmd, "address"), flagText(cmd, "config")
	if address != "" {
		return address, nil
	}
	if file == "" {
		return caddy.DefaultAdminListen, nil
	}
	text, _, _, err := caddycmd.LoadConfig(file, flagText(cmd, "adapter"))
	if err != nil {
		return "", fmt.Errorf("finding Caddy's admin address: %w", err)
	}
	var config struct {
		Admin adminSettings `json:"admin"`
	}
	if err := json.Unmarshal(text, &config); err != nil {
		return "", fmt.Errorf("finding Caddy's admin address in %s: %w", file, err)
	}
	if config.Admin.Disabled {
		return "", fmt.Errorf("%s turns the admin endpoint off, and this command works through it: "+
			"let it listen on a socket, such as `admin unix//run/caddy/admin.sock`, and reload; or give another Caddy's address with --address", file)
	}
	if address, err = caddy.NewReplacer().ReplaceOrErr(config.Admin.Listen, true, true); err != nil {
		return "", fmt.Errorf("finding Caddy's admin address in %s: %w", file, err)
	}
	return cmp.Or(address, caddy.DefaultAdminListen), nil
}

// flagText is the value of a flag that the command has.
func flagText(cmd *cobra.Command, flag string) string {
	f := cmd.Flag(flag)
	if f == nil {
		return ""
	}
	return f.Value.String()
}

// flagSet tells whether a flag without a value is set.
func flagSet(cmd *cobra.Command, flag string) bool { return flagText(cmd, flag) == "true" }

// flagTime reads a flag that names a time: RFC 3339, a day, or a duration that
// is counted back from now. Empty is zero.
func flagTime(cmd *cobra.Command, flag string) (time.Time, error) {
	v := flagText(cmd, flag)
	if v == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, v); err == nil {
		return t.UTC(), nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, v, time.Local); err == nil {
		return t.UTC(), nil
	}
	if d, err := caddy.ParseDuration(v); err == nil && d >= 0 {
		return time.Now().UTC().Add(-d).Truncate(time.Second), nil
	}
	return time.Time{}, fmt.Errorf("--%s: %q is no time; write for example 2h (two hours ago), 2026-01-07 or 2026-01-07T15:30:00Z", flag, v)
}

const timeHelp = "a time such as 2026-01-07T15:30:00Z, a day, or how long ago, such as 2h or 7d"

// webhookNames completes the name of a webhook, once.
func webhookNames(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return completedWebhooks(cmd), cobra.ShellCompDirectiveNoFileComp
}

// webhookFlag completes the value of --webhook.
func webhookFlag(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return completedWebhooks(cmd), cobra.ShellCompDirectiveNoFileComp
}

// completionTime is how long a shell waits for completions.
const completionTime = 3 * time.Second

func completedWebhooks(cmd *cobra.Command) (names []cobra.Completion) {
	for _, w := range completed[webhookAnswer](cmd, "/webhooks") {
		names = append(names, cobra.CompletionWithDesc(cell(w.Name), w.State))
	}
	return names
}

// completed lists what to complete with; nothing where Caddy does not answer.
func completed[T any](cmd *cobra.Command, path string) []T {
	c, err := dial(cmd)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(background(cmd), completionTime)
	defer cancel()
	body, err := c.get(ctx, path, nil)
	if err != nil {
		return nil
	}
	page, err := readAnswer[listAnswer[T]](body)
	if err != nil {
		return nil
	}
	return page.Items
}

// background is the command's context; completions run without one.
func background(cmd *cobra.Command) context.Context {
	if ctx := cmd.Context(); ctx != nil {
		return ctx
	}
	return context.Background()
}

// completeFlag says how the value of a flag is completed.
func completeFlag(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err) // the flag is not defined: a mistake in this package
	}
}
