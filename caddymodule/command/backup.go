package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/userhero/relay/queue/badgerqueue"
)

func backupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup <file> [<folder>]\n  caddy userhero backup --dir <backups> [--keep <n>] [<folder>]",
		Short: "Writes everything the store holds to one file",
		Long: `
Backs up the store of the running Caddy, as it is at one moment, while it continues
to work; or, if you give its folder, a store that no process has open. With - as the
file it writes to standard output.

With --dir it writes a file named after the time, such as
relay-20260107T153000Z.backup, and then removes the oldest of these files, so that
--keep of them stay. It removes none before the new one has been read back. Run it
with a timer: the packages have userhero-relay-backup.timer.

A backup is read back after it was written. Then the running relay shows its age, in
the metric userhero_backup_age_seconds and in "caddy userhero status". An encrypted
backup can only be read back with --encryption-key.

The file holds everything in the store: events, deliveries, and the secrets of
webhooks that were added by API. The backup of an encrypted store is encrypted with
the store's key. Any other backup is not encrypted: protect it like the store.`,
		Example: `  caddy userhero backup relay-2026-01-07.backup
  caddy userhero backup --dir /var/backups/relay --keep 7
  caddy userhero backup - | zstd > relay.backup.zst
  caddy userhero backup relay.backup /var/lib/userhero/store`,
		Args: func(cmd *cobra.Command, args []string) error {
			if flagText(cmd, "dir") != "" {
				return cobra.MaximumNArgs(1)(cmd, args)
			}
			return cobra.RangeArgs(1, 2)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := flagKey(cmd, "encryption-key")
			if err != nil {
				return err
			}
			if dir := flagText(cmd, "dir"); dir != "" {
				return backupInto(cmd, dir, args, key)
			}
			return backupTo(cmd, args[0], args[1:], key)
		},
	}
	flags := cmd.Flags()
	flags.String("encryption-key", "", "The store's key, to open a folder and to read the file back; "+keyHelp)
	flags.String("dir", "", "Write a file named after the time into this folder, which is made if it is missing")
	flags.Int("keep", 7, "How many backups stay in the folder of --dir")
	return cmd
}

// errNotVerified says that a backup is written and was not read back.
var errNotVerified = errors.New("the backup is encrypted and was not read back: give --encryption-key")

// backupTo writes one backup, of the running relay or of the store in a folder, and
// verifies it.
func backupTo(cmd *cobra.Command, file string, folder []string, key []byte) error {
	err := writeBackup(cmd, file, folder, key)
	if errors.Is(err, errNotVerified) {
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is written and encrypted with the store's key; you need that key to restore it. To verify it too, give --encryption-key.\n", file)
	}
	return err
}

// backupFiles match the names of the files that backupInto writes. They sort by time.
var backupFiles = regexp.MustCompile(`^relay-\d{8}T\d{6}Z\.backup$`)

// partTime is the age from which the remains of an interrupted backup are removed.
const partTime = 24 * time.Hour

// backupInto writes one backup into a folder of backups, verifies it, and removes the
// oldest ones.
func backupInto(cmd *cobra.Command, dir string, folder []string, key []byte) error {
	keep, err := cmd.Flags().GetInt("keep")
	if err != nil || keep < 1 {
		return errors.New("--keep must be at least 1")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	file, err := newBackupFile(cmd.Context(), dir)
	if err != nil {
		return err
	}
	if err := writeBackup(cmd, file, folder, key); errors.Is(err, errNotVerified) {
		return fmt.Errorf("%s: %w; no older backup was removed", file, err)
	} else if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return err
	}
	var backups, remove []string
	for _, e := range entries {
		switch part, _ := filepath.Match("relay-*.backup.*.part", e.Name()); {
		case !e.Type().IsRegular():
		case backupFiles.MatchString(e.Name()):
			backups = append(backups, e.Name())
		case part:
			if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > partTime {
				remove = append(remove, e.Name())
			}
		}
	}
	remove = append(remove, backups[:max(0, len(backups)-keep)]...)
	for _, name := range remove {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing an old backup: %w", err)
		}
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s holds %d backups; %d files were removed.\n", dir, min(keep, len(backups)), len(remove))
	return err
}

// newBackupFile returns the name of a backup that begins now. If this second has one
// already, it waits for the next second.
func newBackupFile(ctx context.Context, dir string) (string, error) {
	for {
		now := time.Now()
		file := filepath.Join(dir, now.UTC().Format("relay-20060102T150405Z.backup"))
		if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) {
			return file, nil
		} else if err != nil {
			return "", err
		}
		select {
		case <-time.After(time.Until(now.Truncate(time.Second).Add(time.Second))):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// writeBackup writes a backup to a file, or to standard output for "-", and reads it
// back. Then it reports the backup to the running relay, which shows its age.
func writeBackup(cmd *cobra.Command, file string, folder []string, key []byte) error {
	write := func(w io.Writer) error { return backupRunning(cmd, w) }
	if len(folder) > 0 {
		write = func(w io.Writer) error {
			return asOwner(folder[0], func() error { return backupFolder(cmd.Context(), w, folder[0], key) })
		}
	}
	if file == "-" {
		return write(cmd.OutOrStdout())
	}
	if err := writeFile(file, write); err != nil {
		return err
	}
	info, err := verifyBackup(cmd, file, key)
	if err != nil || len(folder) > 0 {
		return err
	}
	if _, err := send(cmd, http.MethodPost, "/backup", map[string]any{"made": info.Made}); err != nil {
		return fmt.Errorf("%s is complete, but the relay does not show its age: %w", file, err)
	}
	return nil
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

// verifyBackup reads a backup that was written and prints what it holds. The error is
// errNotVerified if only a key could tell.
func verifyBackup(cmd *cobra.Command, name string, key []byte) (info badgerqueue.BackupInfo, err error) {
	f, err := os.Open(name)
	if err != nil {
		return info, err
	}
	defer func() { _ = f.Close() }()
	info, err = badgerqueue.VerifyBackup(f, key)
	protection := "is NOT encrypted and holds the secrets of webhooks: protect it like the store"
	switch {
	case errors.Is(err, badgerqueue.ErrBackupKey):
		return info, errNotVerified
	case err != nil:
		return info, fmt.Errorf("%s was written, but reading it fails: %w", name, err)
	case info.Encrypted:
		protection = "is encrypted with the store's key; you need that key to restore it"
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is complete: %s records. It %s.\n", name, humanize.Comma(info.Records), protection)
	return info, err
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
