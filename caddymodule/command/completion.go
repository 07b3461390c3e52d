package command

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/userhero/relay/console/api"
)

// completionTime is how long a shell waits for completions.
const completionTime = 3 * time.Second

// completeFlag sets how the value of a flag is completed.
func completeFlag(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err) // the flag is not defined: a mistake in this package
	}
}

// oneOf completes one of some fixed values.
func oneOf(values ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
}

// webhookArgument completes the name of a webhook as the only argument.
func webhookArgument(cmd *cobra.Command, args []string, text string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return webhookNames(cmd, args, text)
}

// webhookNames completes the name of a webhook.
func webhookNames(cmd *cobra.Command, _ []string, _ string) (names []cobra.Completion, _ cobra.ShellCompDirective) {
	for _, w := range completions[api.Webhook](cmd, "/webhooks") {
		names = append(names, cobra.CompletionWithDesc(cell(w.Name), w.State))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// projectNames completes the names of projects that webhooks are bound to.
func projectNames(cmd *cobra.Command, _ []string, _ string) (names []cobra.Completion, _ cobra.ShellCompDirective) {
	for _, w := range completions[api.Webhook](cmd, "/webhooks") {
		for _, p := range w.Projects {
			if name := cell(p); !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completions lists the items of a list of the API; none if Caddy does not answer.
func completions[T any](cmd *cobra.Command, path string) []T {
	if cmd.Context() == nil { // completions run without one
		cmd.SetContext(context.Background())
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
	defer cancel()
	c, err := dial(cmd)
	if err != nil {
		return nil
	}
	page, err := decode[api.Page[T]](c.get(ctx, path, nil))
	if err != nil {
		return nil
	}
	return page.Items
}
