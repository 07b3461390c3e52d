package command

import (
	"fmt"
	"net/url"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"
)

// flagText returns the value of a flag as text; empty if the command does not have
// the flag.
func flagText(cmd *cobra.Command, flag string) string {
	f := cmd.Flag(flag)
	if f == nil {
		return ""
	}
	return f.Value.String()
}

// flagSet reports whether a flag that takes no value is set.
func flagSet(cmd *cobra.Command, flag string) bool { return flagText(cmd, flag) == "true" }

const timeHelp = "a time such as 2026-01-07T15:30:00Z, a day, or how long ago, such as 2h or 7d"

// flagTime reads a flag that holds a time: RFC 3339, a day, or a duration before
// now. Empty is the zero time.
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
	return time.Time{}, fmt.Errorf("--%s: %q is not a time; write for example 2h (two hours ago), 2026-01-07 or 2026-01-07T15:30:00Z", flag, v)
}

// addJSON adds the flag --json to a command.
func addJSON(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().Bool("json", false, "Print the API's answer unchanged")
	return cmd
}

// addPaging adds the flags of a list to a command.
func addPaging(cmd *cobra.Command) {
	cmd.Flags().Int("limit", 50, "Print at most this many rows")
	cmd.Flags().String("cursor", "", "Continue after the previous page")
}

// listQuery returns the flags of a list as parameters of the API. Flags that are
// not set are left out; since and until are read as times.
func listQuery(cmd *cobra.Command, flags ...string) (url.Values, error) {
	q := make(url.Values)
	for _, name := range append(flags, "limit", "cursor") {
		value := flagText(cmd, name)
		if name == "since" || name == "until" {
			t, err := flagTime(cmd, name)
			if err != nil {
				return nil, err
			}
			value = timestamp(t)
		}
		if value != "" {
			q.Set(name, value)
		}
	}
	return q, nil
}
