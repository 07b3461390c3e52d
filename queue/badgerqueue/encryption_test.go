package badgerqueue

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
)

// storeOf fills a store with canaries of every kind, closes it, and says which
// of its files have one in the clear.
func storeOf(t *testing.T, dir string, key []byte) (found []string) {
	t.Helper()
	const canary = "canary-e1b5c1d7"
	ctx := context.Background()
	s, err := Open(ctx, Options{Path: dir, EncryptionKey: key})
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.PutWebhook(ctx, queue.Webhook{Name: "w", Data: []byte(canary)})
	if err != nil {
		t.Fatal(err)
	}
	e := entry(1, w.ID)
	e.Body, e.Key = []byte(canary), queue.Key{Name: canary}
	enqueue(t, s, e)
	if err := s.AppendActivity(ctx, queue.Activity{At: time.Now(), Data: []byte(canary)}); err != nil {
		t.Fatal(err)
	}
	look := func() {
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if b, err := os.ReadFile(file); err == nil && bytes.Contains(b, []byte(canary)) {
				found = append(found, filepath.Base(file))
			}
		}
	}
	look() // in the memtable's log
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
	look() // in a table
	return found
}

func TestEncryptedStoreHasNothingInTheClear(t *testing.T) {
	t.Parallel()
	key := []byte("0123456789abcdef0123456789abcdef")
	dir := t.TempDir()
	if found := storeOf(t, dir, key); len(found) > 0 {
		t.Errorf("in the clear in %v", found)
	}
	if found := storeOf(t, t.TempDir(), nil); len(found) < 2 {
		t.Errorf("without a key the canary is found in %v only; the test above sees nothing", found)
	}
	for name, wrong := range map[string][]byte{"another key": []byte("fedcba9876543210fedcba9876543210"), "no key": nil} {
		s, err := Open(context.Background(), Options{Path: dir, EncryptionKey: wrong})
		if err == nil {
			_ = s.Close(context.Background())
			t.Errorf("the store opens with %s", name)
		} else if !strings.Contains(err.Error(), "encryption key") {
			t.Errorf("with %s the error is %v", name, err)
		}
	}
	s := openAt(t, Options{Path: dir, EncryptionKey: key})
	if n := s.Stats(context.Background()).Events; n != 1 {
		t.Errorf("with its key the store has %d events", n)
	}
}

// TestKeyRotation changes a store's key by command and on opening: what was
// written is there, the old key opens it no more, and a wrong one changes nothing.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	first, second, third := []byte("0123456789abcdef0123456789abcdef"), []byte("fedcba9876543210"), []byte("a third key of 24 bytes.")
	dir := killedStore(t, 10, first).write(t)
	for name, c := range map[string]struct{ from, to []byte }{
		"a wrong old key": {second, third}, "no old key": {nil, second}, "no new key": {first, nil}, "a short new key": {first, []byte("short")},
	} {
		before := readFiles(t, dir)
		if err := RotateKey(dir, c.from, c.to); err == nil || !readFiles(t, dir).equal(before) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := RotateKey(dir, first, second); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Options{Path: dir, EncryptionKey: first}); err == nil || !strings.Contains(err.Error(), "encryption key is not the one") {
		t.Errorf("with the old key: %v", err)
	}
	for range 2 { // the second time there is nothing to change
		s, err := Open(t.Context(), Options{Path: dir, EncryptionKey: third, PreviousKey: second})
		if err != nil {
			t.Fatal(err)
		}
		if n := s.Stats(context.Background()).Events; n != 40 {
			t.Errorf("%d of 40 events are left", n)
		}
		wantNoFindings(t, s)
		if err := RotateKey(dir, third, first); err == nil || !strings.Contains(err.Error(), "another process") {
			t.Errorf("of an open store: %v", err)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(t.Context(), Options{Path: dir, EncryptionKey: second, PreviousKey: first}); err == nil || !strings.Contains(err.Error(), "encryption key is not the one") {
		t.Errorf("with two wrong keys: %v", err)
	}
}
