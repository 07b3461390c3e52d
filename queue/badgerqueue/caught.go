package badgerqueue

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/layout"
)

// caughtKey returns the key of a place in the ring of caught submissions.
func caughtKey(place uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{layout.PrefixCaught}, place)
}

// decodeCaught reads a record: when the submission was caught, and its document.
func decodeCaught(key, rec []byte) (queue.Caught, error) {
	payload, err := layout.Unseal(key, rec)
	if err != nil {
		return queue.Caught{}, err
	}
	if len(payload) < 8 {
		return queue.Caught{}, fmt.Errorf("%w %q: %d bytes", layout.ErrDamaged, key, len(payload))
	}
	at := time.UnixMilli(int64(binary.BigEndian.Uint64(payload))).UTC()
	return queue.Caught{At: at, Body: payload[8:]}, nil
}

// KeepCaught implements queue.Queue. The newest submission replaces the oldest, so robots
// cannot fill the disk.
func (s *Store) KeepCaught(ctx context.Context, c queue.Caught) error {
	if err := s.disk.RoomToAccept(); err != nil {
		return err
	}
	err := s.commit(ctx, 2, 256+len(c.Body), func(b *batch) error {
		place, err := b.caughtPlace()
		if err != nil {
			return err
		}
		key := caughtKey(place)
		if err := b.setFor(queue.CaughtFor, key, encodeCaught(key, c)); err != nil {
			return err
		}
		b.caught = &place
		return nil
	})
	if err != nil {
		return fmt.Errorf("keeping what a honeypot caught: %w", err)
	}
	return nil
}

// caughtPlace returns the place after the last one that was used. On the first call it
// finds the newest record and returns the place after it.
func (b *batch) caughtPlace() (place uint16, err error) {
	if b.caught != nil {
		return (*b.caught + 1) % queue.MaxCaught, nil
	}
	var newest time.Time
	err = scan(b.txn, []byte{layout.PrefixCaught}, nil, func(key, rec []byte) (bool, error) {
		// Skip a damaged record. It will be overwritten later.
		if kept, err := decodeCaught(key, rec); err == nil && !kept.At.Before(newest) {
			newest, place = kept.At, (binary.BigEndian.Uint16(key[1:])+1)%queue.MaxCaught
		}
		return true, nil
	})
	return place, err
}

// Caught implements queue.Queue.
func (s *Store) Caught(ctx context.Context) (all []queue.Caught, err error) {
	err = s.view(ctx, func(txn *badger.Txn) error {
		all, err = caughtOf(txn, func(_ []byte, err error) error {
			_ = s.report("listing what honeypots caught", err)
			return ctx.Err()
		})
		return err
	})
	return all, err
}

// sortCaught sorts the newest first.
func sortCaught(all []queue.Caught) {
	slices.SortStableFunc(all, func(a, b queue.Caught) int { return cmp.Compare(b.At.UnixMilli(), a.At.UnixMilli()) })
}
