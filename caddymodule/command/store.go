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
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/userhero/relay/caddymodule/secret"
	"github.com/userhero/relay/queue/badgerqueue"
)

// keyHelp says how a command takes a key.
const keyHelp = "as encryption_key has it; better a placeholder such as {file./run/secrets/data_key} or {env.DATA_KEY} than the key itself"

// flagKey reads an encryption key from a flag; none is nil.
func flagKey(cmd *cobra.Command, flag string) ([]byte, error) {
	key, err := secret.Key(caddy.NewReplacer(), flagText(cmd, flag))
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	return key, nil
}

func checkCommand() *cobra.Command {
	cmd := addJSON(&cobra.Command{
		Use:   "check [<folder>]",
		Short: "Checks the store, and saves what is readable of a damaged one",
		Long: `
Reads everything the store holds and says what is wrong with it: checksums,
records that do not agree, counters that count something else. Without a folder it
asks the running Caddy, which goes on working meanwhile. With the folder of a store
that no process has open it looks at the files first, as they lie there; only where
nothing is wrong with them does it open the store, as a start of Caddy would.

With --salvage it writes every record that can be read to a new store in another
folder, which can then be given to Caddy as the queue's path. The damaged store is
not changed. Where the newest version of a record is lost, the one before it counts:
a delivery may then be made once more.

It exits with 1 where anything is wrong.`,
		Example: `  caddy userhero check
  caddy userhero check /var/lib/userhero
  caddy userhero check --salvage /var/lib/userhero.saved /var/lib/userhero`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := flagKey(cmd, "encryption-key")
			if err != nil {
				return err
			}
			if to := flagText(cmd, "salvage"); to != "" {
				if len(args) == 0 {
					return errors.New("--salvage needs the folder of the damaged store: caddy userhero check --salvage <new folder> <folder>")
				}
				return salvage(cmd, badgerqueue.SalvageOptions{From: args[0], To: to, EncryptionKey: key})
			}
			var answer []byte
			if len(args) == 1 {
				var report badgerqueue.CheckReport
				err := asOwner(args[0], func() (err error) {
					report, err = badgerqueue.CheckFolder(cmd.Context(), badgerqueue.Options{Path: args[0], EncryptionKey: key})
					return err
				})
				if err != nil {
					return err
				}
				if answer, err = json.Marshal(report); err != nil {
					return err
				}
				answer = append(answer, '\n')
			} else if answer, err = askStore(cmd, "/check"); err != nil {
				return err
			}
			if err := show(cmd, answer, showCheck); err != nil {
				return err
			}
			report, err := readAnswer[badgerqueue.CheckReport](answer)
			if err == nil && report.Found > 0 {
				err = fmt.Errorf("%s wrong with the store: restore a backup, or save what is readable with caddy userhero check --salvage <new folder> <folder>", things(report.Found))
			}
			return err
		},
	})
	flags := cmd.Flags()
	flags.String("salvage", "", "Write every readable record to a new store in this folder")
	flags.String("encryption-key", "", "The store's key, "+keyHelp)
	return cmd
}

func things(n int64) string {
	if n == 1 {
		return "1 thing is"
	}
	return humanize.Comma(n) + " things are"
}

func showCheck(out io.Writer, r badgerqueue.CheckReport) error {
	t := newTable(out)
	t.row("Events", humanize.Comma(r.Events))
	t.row("Deliveries", fmt.Sprintf("%s, of which %s wait", humanize.Comma(r.Deliveries), humanize.Comma(r.Waiting)))
	t.row("Attempts", humanize.Comma(r.Attempts))
	t.row("Webhooks", humanize.Comma(r.Webhooks))
	t.row("Activities", humanize.Comma(r.Activities))
	for _, f := range r.Notes {
		t.row("Note", f.String())
	}
	for _, f := range r.Findings {
		t.row("Wrong", f.String())
	}
	if r.Found == 0 {
		t.row("Verdict", "nothing is wrong")
	}
	return t.end()
}

func salvage(cmd *cobra.Command, o badgerqueue.SalvageOptions) error {
	r, err := badgerqueue.Salvage(cmd.Context(), o)
	if err != nil {
		return err
	}
	answer, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return show(cmd, append(answer, '\n'), func(out io.Writer, r badgerqueue.SalvageReport) error {
		t := newTable(out)
		t.row("Saved to", o.To)
		t.row("Events", humanize.Comma(r.Events))
		t.row("Deliveries", fmt.Sprintf("%s, of which %s wait", humanize.Comma(r.Deliveries), humanize.Comma(r.Waiting)))
		t.row("Attempts", humanize.Comma(r.Attempts))
		t.row("Webhooks", humanize.Comma(r.Webhooks))
		t.row("Activities", humanize.Comma(r.Activities))
		if r.Unaddressed > 0 {
			t.row("Not addressed", fmt.Sprintf("%s events have no delivery; where that is a loss, caddy userhero redeliver sends them", humanize.Comma(r.Unaddressed)))
		}
		for _, f := range r.Lost {
			t.row("Lost", f.String())
		}
		if r.LostCount == 0 {
			t.row("Lost", "nothing")
		}
		return t.end()
	})
}

func backupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup <file> [<folder>]",
		Short: "Writes everything the store holds to one file",
		Long: `
Backs up the store of the running Caddy, as of one moment, while it goes on
working; or, given its folder, a store that no process has open. With - as the file
it writes to standard output.

The file holds what the store holds: events, deliveries, and the secrets of webhooks
that were added by API. The backup of an encrypted store is encrypted with the store's
key. That of another store is in the clear: keep it as you keep the store.`,
		Example: `  caddy userhero backup relay-2026-01-07.backup
  caddy userhero backup - | zstd > relay.backup.zst
  caddy userhero backup relay.backup /var/lib/userhero`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := flagKey(cmd, "encryption-key")
			if err != nil {
				return err
			}
			write := func(w io.Writer) error { return copyStore(cmd, w) }
			if len(args) == 2 {
				write = func(w io.Writer) error {
					return asOwner(args[1], func() error { return backupFolder(cmd.Context(), w, args[1], key) })
				}
			}
			if args[0] == "-" {
				return write(cmd.OutOrStdout())
			}
			if err := writeWhole(args[0], write); err != nil {
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
		return err // opening would make a new store
	}
	s, err := badgerqueue.Open(ctx, badgerqueue.Options{Path: path, EncryptionKey: key})
	if err != nil {
		return err
	}
	_, err = s.Backup(ctx, w)
	return errors.Join(err, s.Close(context.WithoutCancel(ctx)))
}

// writeWhole writes a file that only its owner may read; it is there whole or not
// at all.
func writeWhole(name string, write func(io.Writer) error) error {
	if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is there already: name another file, or remove it", name)
	}
	// The name is random: at a known one somebody could put a link to another file.
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

// verifyBackup reads what was written, and says what it is.
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
		_, err = fmt.Fprintf(out, "%s is written, encrypted with the store's key, without which it is of no use. It was not verified: that needs --encryption-key.\n", name)
		return err
	case err != nil:
		return fmt.Errorf("%s was written, and reads back wrong: %w", name, err)
	case info.Encrypted:
		_, err = fmt.Fprintf(out, "%s holds %s records and is whole. It is encrypted with the store's key, without which it is of no use.\n", name, humanize.Comma(info.Records))
		return err
	}
	_, err = fmt.Fprintf(out, "%s holds %s records and is whole. It is NOT encrypted, and the secrets of webhooks are in it: keep it as you keep the store.\n", name, humanize.Comma(info.Records))
	return err
}

func restoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore <file> <folder>",
		Short: "Makes a store of a backup",
		Long: `
Makes a store of a backup, in a new folder, where Caddy finds it as the queue's path.
With - as the file it reads from standard input. The store is put in its place when
all of the backup has been read and is on disk: of a file that is damaged or cut
nothing is restored.

A Caddy that runs meanwhile is not disturbed: restore into another folder, then name
that one in the configuration and reload. --replace takes the place of a store that
no process has open; that one is renamed and kept. Other files in its folder stay.

Run as root, the store belongs to the owner of the folder that it replaces, or of the
one it is made in.

Events keep their ids. What was waiting when the backup was made is delivered when
Caddy runs: also what has been delivered since then, once more.`,
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
				fmt.Fprintf(out, "The store that was there is now %s.\n", kept)
			}
			if info.Encrypted && len(key) == 0 {
				fmt.Fprintf(out, "The backup was encrypted, and the store is NOT: give --encryption-key for one that is.\n")
			}
			_, err = fmt.Fprintf(out, "%s is restored: %s records, as of %s.\n", args[1], humanize.Comma(info.Records), stamp(info.Made))
			return err
		},
	}
	flags := cmd.Flags()
	flags.String("encryption-key", "", "Encrypt the restored store with this key, "+keyHelp)
	flags.String("backup-key", "", "The key of an encrypted backup, where it is not --encryption-key")
	flags.Bool("replace", false, "Take the place of a store that is there; it is renamed and kept")
	return cmd
}

func rotateKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate-key <folder> --old <key> --new <key>",
		Short: "Gives an encrypted store another key",
		Long: `
Changes the encryption key of a store that no process has open. It takes no time: the
key encrypts the keys of the data. So who has kept a copy of the store's KEYREGISTRY
and the old key can still read what was written until now; to have everything
encrypted anew, restore a backup into a new store with another key.

Caddy does the same when it starts with both keys in the configuration:
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
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s has the new key: set encryption_key to it before Caddy starts.\n", args[0])
			return err
		},
	}
	cmd.Flags().String("old", "", "The key it has, "+keyHelp)
	cmd.Flags().String("new", "", "The key it gets, likewise")
	return cmd
}

// askStore reads an answer that may take long.
func askStore(cmd *cobra.Command, path string) ([]byte, error) {
	c, err := dial(cmd)
	if err != nil {
		return nil, err
	}
	body, err := c.stream(cmd.Context(), path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(body, maxAdminAnswer))
	if err != nil {
		return nil, c.unreached(err)
	}
	return answer, nil
}

// copyStore backs up the store of the running Caddy.
func copyStore(cmd *cobra.Command, w io.Writer) error {
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
		return errors.New("Caddy has cut the backup off: its log says why") //nolint:staticcheck // a name
	} else if err != nil {
		return fmt.Errorf("writing the backup: %w", err)
	}
	return nil
}
