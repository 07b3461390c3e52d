package badgerqueue

import (
	"errors"
	"testing"
)

// TestRecordsWithAnotherKeyOrAFlippedBitAreDamaged: each bit of a record counts,
// and so does the key it stands under.
func TestRecordsWithAnotherKeyOrAFlippedBitAreDamaged(t *testing.T) {
	t.Parallel()
	key := formerKey("fb_1")
	rec := encodeSeq(key, 7)
	if seq, err := decodeSeq(key, rec); err != nil || seq != 7 {
		t.Fatalf("read as %d, %v", seq, err)
	}
	if _, err := decodeSeq(formerKey("fb_2"), rec); !errors.Is(err, errDamaged) {
		t.Errorf("under another key: %v", err)
	}
	for bit := range len(rec) * 8 {
		rec[bit/8] ^= 1 << (bit % 8)
		if _, err := decodeSeq(key, rec); !errors.Is(err, errDamaged) {
			t.Errorf("with bit %d flipped: %v", bit, err)
		}
		rec[bit/8] ^= 1 << (bit % 8)
	}
}
