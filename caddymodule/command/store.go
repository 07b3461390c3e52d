package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
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

func backupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup <file> [<folder>]",
		Short: "Writes everything the store holds to one file",
		Long: `
Backs up the store of the running Caddy, as it is at one moment, while it continues
to work; or, if you give its folder, a store that no process has open. With - as the
file it writes to standard output.

The file holds everything in the store: events, deliveries, and the secrets of
webhooks that were added by API. The backup of an encrypted store is encrypted with
the store's key. Any other backup is not encrypted: protect it like the store.`,
		Example: `  caddy userhero backup relay-2026-01-07.backup
  caddy userhero backup - | zstd > relay.backup.zst
  caddy userhero backup relay.backup /var/lib/userhero`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := flagKey(cmd, "encryption-key")
			if err != nil {
				return err
			}
			write := func(w io.Writer) error { return backupRunning(cmd, w) }
			if len(args) == 2 {
				write = func(w io.Writer) error {
					return asOwner(args[1], func() error { return backupFolder(cmd.Context(), w, args[1], key) })
				}
			}
			if args[0] == "-" {
				return write(cmd.OutOrStdout())
			}
			if err := writeFile(args[0], write); err != nil {
				return err
			}
			return verifyBackup(cmd, args[0], key)
		},
	}
	cmd.Flags().String("encryption-key", "", "The store's key, to open a folder and to verify the file; "+keyHelp)
	return cmd
}

// backupFolder backs up a store that no process has open.
func backupFolder(ctx context.Context, w io.Writer, path string, key []byte) error {
	if _, err := os.Stat(path); err != nil {
		return err // opening it would make a new store
	}
	s, err := badgerqueue.Open(ctx, badgerqueue.Options{Path: path, EncryptionKey: key})
	if err != nil {
		return err
	}
	_, err = s.Backup(ctx, w)
	return errors.Join(err, s.Close(context.WithoutCancel(ctx)))
}

// writeFile writes a file that only its owner may read. The file is complete or is
// not made at all.
func writeFile(name string, write func(io.Writer) error) error {
	if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s exists already: name another file, or remove it", name)
	}
	// The name is random, so another user cannot place a link at it before.
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*.part")
	if err != nil {
		return err
	}
	part := f.Name()
	if err := write(f); err != nil {
		return errors.Join(err, f.Close(), os.Remove(part))
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(part))
	}
	return os.Rename(part, name)
}

// verifyBackup reads a backup that was written and prints what it holds.
func verifyBackup(cmd *cobra.Command, name string, key []byte) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	out := cmd.OutOrStdout()
	info, err := badgerqueue.VerifyBackup(f, key)
	switch {
	case errors.Is(err, badgerqueue.ErrBackupKey):
		_, err = fmt.Fprintf(out, "%s is written and encrypted with the store's key; you need that key to restore it. To verify it too, give --encryption-key.\n", name)
		return err
	case err != nil:
		return fmt.Errorf("%s was written, but reading it fails: %w", name, err)
	case info.Encrypted:
		_, err = fmt.Fprintf(out, "%s is complete: %s records. It is encrypted with the store's key; you need that key to restore it.\n", name, humanize.Comma(info.Records))
		return err
	}
	_, err = fmt.Fprintf(out, "%s is complete: %s records. It is NOT encrypted and holds the secrets of webhooks: protect it like the store.\n", name, humanize.Comma(info.Records))
	return err
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

// backupRunning backs up the store of the running Caddy.
func backupRunning(cmd *cobra.Command, w io.Writer) error {
	c, err := dial(cmd)
	if err != nil {
		return err
	}
	body, err := c.stream(cmd.Context(), "/backup")
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	if _, err := io.Copy(w, body); errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("Caddy stopped the backup: look into its log") //nolint:staticcheck // a name
	} else if err != nil {
		return fmt.Errorf("writing the backup: %w", err)
	}
	return nil
}
