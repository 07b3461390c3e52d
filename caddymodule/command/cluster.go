package command

import (
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/userhero/relay/console/api"
)

var serverList = list[api.ClusterServer]{
	columns: []string{"SERVER", "STATE", "LEADER"},
	row: func(s api.ClusterServer) []string {
		state, leader := "offline", ""
		switch {
		case s.Current:
			state = "ok"
		case s.Online:
			state = "catching up"
		}
		if s.Leader {
			leader = "yes"
		}
		return []string{s.Name, state, leader}
	},
}

func showServers(out io.Writer, c api.Cluster) error { return serverList.print(out, c.Servers) }

func clusterCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Shows the cluster of NATS servers that are built into Caddy",
		Long: `
Shows the servers of "queue jetstream" with "embedded", as the cluster's leader sees
them: whether they are online, and whether they have everything. While one is offline or
catches up, no other one should be stopped.

For NATS servers of your own, use "nats server report jetstream".`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return showAnswer(cmd, http.MethodGet, "/cluster", nil, showServers)
		},
	}
	addJSON(cmd)
	remove := &cobra.Command{
		Use:   "remove <server>",
		Short: "Removes a server that has left for good",
		Long: `
Removes a server that will not come back under its name. Until then the others count
it for the majority and keep a place for it in each stream.

Start its replacement first, so that there are three servers without it; its streams
move there. A server that runs is not removed. One that comes back with an empty
folder and its old name needs no command.`,
		Example: `  caddy userhero cluster remove n3`,
		Args:    cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return showAnswer(cmd, http.MethodDelete, "/cluster/"+url.PathEscape(args[0]), nil, showServers)
		},
	}
	addJSON(remove)
	cmd.AddCommand(remove)
	return cmd
}
