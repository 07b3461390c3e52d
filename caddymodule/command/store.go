package command

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/userhero/relay/caddymodule/secret"
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
		Use:   "restore <file> <folder>",
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

Events keep their ids. Deliveries that waited when the backup was made are sent when
Caddy runs, even if they were delivered since then.`,
		Example: `  caddy userhero restore relay.backup /var/lib/userhero
  caddy userhero restore relay.backup /var/lib/userhero --replace`,
		Args: cobra.ExactArgs(2),
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
