package command

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

// dialTime is how long one connection may take.
const dialTime = time.Second

func portsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ports --config <file>",
		Short: "Checks whether the addresses of a configuration are free",
		Long: `
Checks the TCP addresses that a configuration listens on, before you start Caddy
with it. Two Caddys can listen on one port without an error; each then gets some of
the requests.

It needs no running Caddy. It exits with 1 if an address is in use.`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file := flagText(cmd, "config")
			if file == "" {
				return errors.New("name the configuration with --config")
			}
			addresses, err := listenAddresses(file, flagText(cmd, "adapter"))
			if err != nil {
				return err
			}
			var used []string
			for _, address := range addresses {
				if inUse(cmd.Context(), address) {
					used = append(used, address)
				}
			}
			if len(used) > 0 {
				return fmt.Errorf("in use by another process, perhaps another Caddy: %s. Stop it (Caddy with `caddy stop`), or change the addresses in %s",
					strings.Join(used, ", "), file)
			}
			return nil
		},
	}
}

// listenAddresses returns the TCP addresses that a configuration listens on, as
// host:port to connect to.
func listenAddresses(file, adapter string) ([]string, error) {
	text, _, _, err := caddycmd.LoadConfig(file, adapter)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	var config struct {
		Admin adminSettings `json:"admin"`
		Apps  struct {
			HTTP struct {
				Servers map[string]struct {
					Listen []string `json:"listen"`
				} `json:"servers"`
			} `json:"http"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(text, &config); err != nil {
		return nil, fmt.Errorf("reading the configuration %s: %w", file, err)
	}
	var listed []string
	if !config.Admin.Disabled {
		listed = append(listed, cmp.Or(config.Admin.Listen, caddy.DefaultAdminListen))
	}
	for _, server := range config.Apps.HTTP.Servers {
		listed = append(listed, server.Listen...)
	}
	var addresses []string
	for _, text := range listed {
		text, err := caddy.NewReplacer().ReplaceOrErr(text, true, true)
		if err != nil {
			return nil, fmt.Errorf("a listen address in %s: %w", file, err)
		}
		parsed, err := caddy.ParseNetworkAddressWithDefaults(text, "tcp", 443)
		if err != nil {
			return nil, fmt.Errorf("a listen address in %s: %w", file, err)
		}
		if !strings.HasPrefix(parsed.Network, "tcp") {
			continue
		}
		if ip := net.ParseIP(parsed.Host); parsed.Host == "" || ip != nil && ip.IsUnspecified() {
			parsed.Host = "localhost"
		}
		for _, one := range parsed.Expand() {
			addresses = append(addresses, one.JoinHostPort(0))
		}
	}
	slices.Sort(addresses)
	return slices.Compact(addresses), nil
}

// inUse reports whether a process accepts connections at the address.
func inUse(ctx context.Context, address string) bool {
	conn, err := (&net.Dialer{Timeout: dialTime}).DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}
