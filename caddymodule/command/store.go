package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/userhero/relay/caddymodule/secret"
	"github.com/userhero/relay/queue/backup"
	"github.com/userhero/relay/queue/badgerqueue"
)

// keyHelp is the help of a flag that takes a key.
const keyHelp = "written as for encryption_key; better a placeholder such as {file./run/secrets/data_key} or {env.DATA_KEY} than the key itself"

// flagKey reads an encryption key from a flag; nil if the flag is not set.
func flagKey(cmd *cobra.Command, flag string) ([]byte, error) {
	key, err := secret.Key(caddy.NewReplacer(), flagText(cmd, flag))
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	return key, nil
}

func restoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore <file> <folder>\n  caddy userhero restore <file> --config <file>",
		Short: "Makes a store from a backup",
		Long: `
Makes a store from a backup in a new folder, which you can give to Caddy as the
queue's path. With - as the file it reads from standard input. The store is moved to
the folder only after the whole backup was read and is on disk: nothing is restored
from a damaged or incomplete file.

A running Caddy is not disturbed: restore into another folder, then put that folder
into the configuration and reload. --replace replaces a store that no process has
open; the old store is renamed and kept. Other files in its folder stay.

If you run this as root, the store belongs to the owner of the folder that it
replaces, or of the folder that it is made in.

Without a folder it makes the streams of the queue jetstream that --config configures:
with its servers, login, prefix and encryption_key, and with retention and max_disk as
they are when Caddy runs. Streams with that prefix must not exist. No relay opens them
before everything is restored; if it is interrupted, restore again.

If the NATS servers run in Caddy (embedded), stop Caddy on all machines, move the
servers' folders away, run this command on one machine, and start Caddy on the others.
Start Caddy on this machine when the command is done.

A backup can be restored into any engine. Events keep their ids. Deliveries that
waited when the backup was made are sent when Caddy runs, even if they were delivered
since then.`,
		Example: `  caddy userhero restore relay.backup /var/lib/userhero
  caddy userhero restore relay.backup /var/lib/userhero --replace
  caddy userhero restore relay.backup --config /etc/caddy/Caddyfile`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := flagKey(cmd, "encryption-key")
			if err != nil {
				return err
			}
			backupKey, err := flagKey(cmd, "backup-key")
			if err != nil {
				return err
			}
			in := cmd.InOrStdin()
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer func() { _ = f.Close() }()
				in = f
			}
			if len(args) == 1 {
				return restoreIntoConfigured(cmd, in, backupKey)
			}
			if err := os.MkdirAll(filepath.Dir(filepath.Clean(args[1])), 0o700); err != nil {
				return err
			}
			info, kept, err := badgerqueue.Restore(cmd.Context(), in, badgerqueue.RestoreOptions{
				Path: args[1], EncryptionKey: key, BackupKey: backupKey, Replace: flagSet(cmd, "replace"),
			})
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if kept != "" {
				fmt.Fprintf(out, "The old store is now %s.\n", kept)
			}
			if info.Encrypted && len(key) == 0 {
				fmt.Fprintf(out, "The backup was encrypted, but the restored store is NOT. To encrypt it, restore again with --encryption-key.\n")
			}
			_, err = fmt.Fprintf(out, "%s is restored: %s records, as of %s.\n", args[1], humanize.Comma(info.Records), timestamp(info.Made))
			return err
		},
	}
	flags := cmd.Flags()
	flags.String("encryption-key", "", "Encrypt the restored store with this key, "+keyHelp)
	flags.String("backup-key", "", "The key of an encrypted backup, if it is not --encryption-key")
	flags.Bool("replace", false, "Replace the store in the folder; it is renamed and kept")
	return cmd
}

// restorer is a queue engine that restores a backup into its servers.
type restorer interface {
	RestoreBackup(ctx context.Context, r io.Reader, key []byte, say func(string)) (backup.Info, error)
	// ServerFolder is the folder of the server that runs in this process, or "".
	ServerFolder() string
}

// restoreIntoConfigured restores a backup into the queue of a configuration. Nothing else
// of the configuration is loaded.
func restoreIntoConfigured(cmd *cobra.Command, in io.Reader, key []byte) error {
	file := flagText(cmd, "config")
	if file == "" {
		return errors.New("name the folder of the new store, or with --config a configuration that has a queue jetstream")
	}
	for _, flag := range []string{"encryption-key", "replace"} {
		if cmd.Flags().Changed(flag) {
			return fmt.Errorf("--%s is for a store in a folder; the configuration says what the queue has", flag)
		}
	}
	config, _, _, err := caddycmd.LoadConfig(file, flagText(cmd, "adapter"))
	if err != nil {
		return err
	}
	var whole struct {
		Apps struct {
			UserHero struct {
				QueueRaw json.RawMessage `json:"queue" caddy:"namespace=userhero.queues inline_key=engine"`
			} `json:"userhero"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(config, &whole); err != nil {
		return err
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: cmd.Context()})
	defer cancel()
	var module any
	if whole.Apps.UserHero.QueueRaw != nil {
		if module, err = ctx.LoadModule(&whole.Apps.UserHero, "QueueRaw"); err != nil {
			return fmt.Errorf("the queue of %s: %w", file, err)
		}
	}
	to, ok := module.(restorer)
	if !ok {
		return fmt.Errorf("the queue of %s keeps a store in a folder; name that folder: caddy userhero restore <file> <folder>", file)
	}
	out := cmd.OutOrStdout()
	var info backup.Info
	restore := func() (err error) {
		info, err = to.RestoreBackup(ctx, in, key, func(said string) { _, _ = fmt.Fprintln(out, said) })
		return err
	}
	if folder := to.ServerFolder(); folder != "" {
		err = asOwner(existing(folder), restore)
	} else {
		err = restore()
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "The queue of %s is restored: %s records, as of %s. Start Caddy with it.\n", file, humanize.Comma(info.Records), timestamp(info.Made))
	return err
}

// existing returns a folder, or the next one above it that exists.
func existing(folder string) string {
	for {
		if _, err := os.Stat(folder); !errors.Is(err, fs.ErrNotExist) {
			return folder
		}
		folder = filepath.Dir(folder)
	}
}

func rotateKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate-key <folder> --old <key> --new <key>",
		Short: "Changes the key of an encrypted store",
		Long: `
Changes the encryption key of a store that no process has open. It is fast, because
the key encrypts only the keys of the data. So somebody with a copy of the store's
KEYREGISTRY and the old key can still read what was written until now. To encrypt
everything again, restore a backup into a new store with another key.

Caddy does the same at its start if the configuration has both keys:
encryption_key <new key> <old key>`,
		Example: `  caddy userhero rotate-key /var/lib/userhero --old {file./run/secrets/old_key} --new {file./run/secrets/data_key}`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, err := flagKey(cmd, "old")
			if err != nil {
				return err
			}
			to, err := flagKey(cmd, "new")
			if err != nil {
				return err
			}
			if err := asOwner(args[0], func() error { return badgerqueue.RotateKey(args[0], from, to) }); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s has the new key. Set encryption_key to it before you start Caddy.\n", args[0])
			return err
		},
	}
	cmd.Flags().String("old", "", "The present key, "+keyHelp)
	cmd.Flags().String("new", "", "The new key, "+keyHelp)
	return cmd
}
