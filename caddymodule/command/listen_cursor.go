package command

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/userhero/relay/console/api"
)

// listenSlack is how late an event may appear in lists after it was accepted. So
// much before the newest delivery is listed again.
const listenSlack = time.Minute

// errCursor is in errors of reading and writing the cursor. Without the cursor,
// deliveries would be forwarded twice or lost.
var errCursor = errors.New("remembering what was forwarded")

// listenCursor remembers in a file what was forwarded: everything before Since,
// and the deliveries in Done.
type listenCursor struct {
	path string

	// Address and Webhook are those that the cursor belongs to.
	Address string `json:"address"`
	Webhook string `json:"webhook,omitempty"`
	// Since never goes back; it is zero until the first run. It has whole seconds, as
	// the API reads it.
	Since time.Time `json:"since"`
	// Done holds the forwarded deliveries since Since, and when their events were
	// accepted.
	Done map[string]time.Time `json:"done"`
}

// openListenCursor reads the cursor or makes a new one. With since, the cursor
// begins there and forgets what was forwarded.
func openListenCursor(path, address, webhook string, since time.Time) (*listenCursor, error) {
	if path == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("%w: %w; use another file with --state", errCursor, err)
		}
		key := sha256.Sum256([]byte(address + "\n" + webhook))
		path = filepath.Join(cache, "userhero", "listen-"+hex.EncodeToString(key[:8])+".json")
	}
	c := &listenCursor{path: path, Address: address, Webhook: webhook, Done: make(map[string]time.Time)}
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("%w: %w; use another file with --state", errCursor, err)
	default:
		stored := listenCursor{path: path}
		if err := json.Unmarshal(text, &stored); err != nil {
			return nil, fmt.Errorf("%w: %s is damaged (%w); remove it, and set --since to where to begin", errCursor, path, err)
		}
		if stored.Address != address || stored.Webhook != webhook {
			return nil, fmt.Errorf("%w: %s is of another address or webhook (%s %s); use another file with --state", errCursor, path, stored.Address, stored.Webhook)
		}
		if since.IsZero() {
			c.Since = stored.Since
			if stored.Done != nil {
				c.Done = stored.Done
			}
		}
	}
	if !since.IsZero() {
		c.Since = since.Truncate(time.Second)
	}
	return c, nil
}

// has reports whether a delivery has been forwarded.
func (c *listenCursor) has(d api.Delivery) bool {
	_, ok := c.Done[d.ID]
	return ok
}

// add remembers that a delivery has been forwarded.
func (c *listenCursor) add(d api.Delivery) error {
	c.Done[d.ID] = d.CreatedAt
	return c.save()
}

// advance moves Since forward, so that Done stays small. Everything accepted before
// the given time has been forwarded, except what may appear late. The zero time
// changes nothing.
func (c *listenCursor) advance(forwarded time.Time) error {
	since := forwarded.Add(-listenSlack).Truncate(time.Second)
	if forwarded.IsZero() || !since.After(c.Since) {
		return nil
	}
	c.Since = since
	for id, created := range c.Done {
		if created.Before(since) {
			delete(c.Done, id)
		}
	}
	return c.save()
}

// save replaces the file in one step, so that an interruption leaves the old one.
func (c *listenCursor) save() (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w: %w; use another file with --state", errCursor, err)
		}
	}()
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	dir := filepath.Dir(c.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".listen-")
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), c.path); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
