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
)

// listenSlack is how far apart the acceptance of an event and its appearance in
// lists may lie: below the newest that was seen, so much is looked at again.
const listenSlack = time.Minute

// errCursor is in the errors of keeping the cursor. Going on without it would
// forward again, or lose, what comes.
var errCursor = errors.New("remembering what was forwarded")

// listenCursor remembers in a file what was forwarded: everything from before
// Since, and what is in Done.
type listenCursor struct {
	path string

	// Address and Webhook tell whose cursor it is.
	Address string `json:"address"`
	Webhook string `json:"webhook,omitempty"`
	// Since never goes back. Zero is a cursor that has not begun. Whole
	// seconds, as the API takes it.
	Since time.Time `json:"since"`
	// Done are the deliveries that were forwarded, with the acceptance of
	// their events, none before Since.
	Done map[string]time.Time `json:"done"`
}

// openListenCursor reads the cursor, or makes one that is not begun. With
// since, it begins there and has forgotten what was forwarded.
func openListenCursor(path, address, webhook string, since time.Time) (*listenCursor, error) {
	if path == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("%w: %w; name another file with --state", errCursor, err)
		}
		key := sha256.Sum256([]byte(address + "\n" + webhook))
		path = filepath.Join(cache, "userhero", "listen-"+hex.EncodeToString(key[:8])+".json")
	}
	c := &listenCursor{path: path, Address: address, Webhook: webhook, Done: make(map[string]time.Time)}
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("%w: %w; name another file with --state", errCursor, err)
	default:
		kept := listenCursor{path: path}
		if err := json.Unmarshal(text, &kept); err != nil {
			return nil, fmt.Errorf("%w: %s is damaged (%w); remove it, and say with --since where to begin", errCursor, path, err)
		}
		if kept.Address != address || kept.Webhook != webhook {
			return nil, fmt.Errorf("%w: %s is of another address or webhook (%s %s); name another file with --state", errCursor, path, kept.Address, kept.Webhook)
		}
		if since.IsZero() {
			c.Since = kept.Since
			if kept.Done != nil {
				c.Done = kept.Done
			}
		}
	}
	if !since.IsZero() {
		c.Since = since.Truncate(time.Second)
	}
	return c, nil
}

// has tells whether a delivery has been forwarded.
func (c *listenCursor) has(d listedDelivery) bool {
	_, ok := c.Done[d.ID]
	return ok
}

// add remembers a delivery that has been forwarded.
func (c *listenCursor) add(d listedDelivery) error {
	c.Done[d.ID] = d.CreatedAt
	return c.save()
}

// advance moves Since up, so that Done does not grow without end: everything
// that was accepted before the given time has been forwarded, but for what may
// appear late. Zero says nothing.
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

// save replaces the file as a whole: an interruption leaves the one before.
func (c *listenCursor) save() (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w: %w; name another file with --state", errCursor, err)
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
