package caddymodule

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/userhero/relay/caddymodule/option"
	"github.com/userhero/relay/caddymodule/secret"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue"
)

func init() { caddy.RegisterModule(BadgerQueue{}) }

// BadgerQueue stores events and deliveries in a folder on the local disk. Only one
// process can have the folder open.
type BadgerQueue struct {
	// The folder. It is created if it does not exist. Placeholders are replaced
	// when the configuration is loaded. Default: `userhero` in Caddy's data
	// directory.
	Path string `json:"path,omitempty"`

	// The key that encrypts the store with AES: 16, 24 or 32 bytes, as plain
	// text, in hexadecimal or in base64. Write it as a placeholder, such as
	// `{file./run/secrets/data_key}`. Default: no encryption.
	EncryptionKey string `json:"encryption_key,omitempty"`

	// The old key, to change the key of a store. A store that still has this key
	// is changed to `encryption_key` when it is opened. Default: none.
	PreviousEncryptionKey string `json:"previous_encryption_key,omitempty"`

	path          string
	key, previous []byte
}

// CaddyModule returns the Caddy module information.
func (BadgerQueue) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "userhero.queues.badger",
		New: func() caddy.Module { return new(BadgerQueue) },
	}
}

// Provision resolves the path and the keys.
func (b *BadgerQueue) Provision(caddy.Context) error {
	repl := caddy.NewReplacer()
	path, err := repl.ReplaceOrErr(b.Path, true, true)
	if err != nil {
		return fmt.Errorf("path: %w", err)
	}
	if path == "" {
		path = filepath.Join(caddy.AppDataDir(), "userhero")
	}
	if b.path, err = filepath.Abs(path); err != nil {
		return fmt.Errorf("path: %w", err)
	}
	if b.PreviousEncryptionKey != "" && b.EncryptionKey == "" {
		return errors.New("previous_encryption_key: without an encryption_key there is nothing to change it to")
	}
	if b.key, err = secret.Key(repl, b.EncryptionKey); err != nil {
		return fmt.Errorf("encryption_key: %w", err)
	}
	if b.previous, err = secret.Key(repl, b.PreviousEncryptionKey); err != nil {
		return fmt.Errorf("previous_encryption_key: %w", err)
	}
	return nil
}

// UnmarshalCaddyfile sets up the engine from Caddyfile tokens. Syntax:
//
//	badger {
//	    path           <folder>
//	    encryption_key <key> [<previous key>]
//	}
func (b *BadgerQueue) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return option.Directive(d, "queue badger",
		option.Text("path", &b.Path),
		option.Values("encryption_key", 1, &b.EncryptionKey, &b.PreviousEncryptionKey),
	)
}

// StoreKey returns the absolute path of the folder.
func (b *BadgerQueue) StoreKey() string { return b.path }

// StoreSettings implements QueueOpener. The key appears as a digest.
func (b *BadgerQueue) StoreSettings() map[string]string {
	digest := sha256.Sum256(b.key)
	return map[string]string{"queue": "badger", "encryption_key": hex.EncodeToString(digest[:])}
}

// Remote implements QueueOpener.
func (*BadgerQueue) Remote() bool { return false }

// OpenQueue opens the store in the folder.
func (b *BadgerQueue) OpenQueue(ctx context.Context, o QueueOptions) (queue.Queue, error) {
	store, err := badgerqueue.Open(ctx, badgerqueue.Options{
		Path:          b.path,
		EncryptionKey: b.key,
		PreviousKey:   b.previous,
		Retention:     o.Retention,
		MaxDisk:       o.MaxDisk,
		Memory:        o.Memory,
		Logger:        o.Logger,
		OnCommit:      o.OnCommit,
	})
	if err != nil {
		return nil, err // not a nil *Store in an interface
	}
	return store, nil
}

// Interface guards
var (
	_ caddy.Provisioner     = (*BadgerQueue)(nil)
	_ caddyfile.Unmarshaler = (*BadgerQueue)(nil)
	_ QueueOpener           = (*BadgerQueue)(nil)
)
