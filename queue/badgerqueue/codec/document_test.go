package codec

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
)

// message is a document with a message.
func message(text string) []byte {
	return fmt.Appendf(nil, `{"event":"feedback.created","timestamp":"2026-01-07T15:30:00Z","data":{"id":"fb_06FPZ3K9QW4T7XJ2M8N5R1V0YB","projectId":"proj_xyz",`+
		`"widgetId":"w_default","message":%q,"category":"bug","rating":2,"status":"new","context":{"pageUrl":"/settings/billing","referrer":"/dashboard",`+
		`"browser":"Firefox","browserVersion":"145","os":"Linux","deviceType":"desktop","viewport":{"width":1280,"height":720},"timezone":"Europe/Vienna","locale":"de-AT",`+
		`"country":"AT"},"metadata":{"userId":"user_4711","plan":"business"},"createdAt":"2026-01-07T15:30:00Z"}}`, text)
}

// ordinary is a message that the dictionary was not made of.
const ordinary = `The invoice from March shows the wrong VAT number. I have updated it twice under Settings and it is correct there, yet each new PDF ` +
	`still prints the old one. Our accountant rejects those invoices, so this is rather urgent for us. Typing in the comment box is also slow if there ` +
	`are more than fifty comments in the thread: every key press takes about half a second to appear. Tested without extensions, the same.`

func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// TestDocumentsUnpackAsTheyWere: every byte, however a document is packed, also by a
// Packer that was used before, and unpacked by many goroutines at once.
func TestDocumentsUnpackAsTheyWere(t *testing.T) {
	t.Parallel()
	documents := map[string]struct {
		document []byte
		how      byte
	}{
		"nothing":               {nil, keptPlain},
		"short":                 {[]byte("{}"), keptPlain},
		"ordinary":              {message(ordinary), packedCoded},
		"Japanese":              {message("保存ボタンを押しても反応がありません。ブラウザを変えても同じです。"), packedS2},
		"a pattern":             {bytes.Repeat([]byte("ab"), 300_000), packedS2},
		"noise":                 {noise(3000), keptPlain},
		"noise, repeated":       {bytes.Repeat(noise(3000), 3), packedS2},
		"one byte":              {bytes.Repeat([]byte("x"), 1000), packedS2},
		"the longest":           {append(message(ordinary), bytes.Repeat([]byte("x"), MostUnpacked-len(message(ordinary)))...), packedCoded},
		"too long":              {bytes.Repeat([]byte("x"), MostUnpacked+1), keptPlain},
		"too much for the code": {message(fmt.Sprintf("%x", noise(140_000)) + strings.Repeat("x", 280_000)), packedS2},
	}
	var p Packer
	for range 2 {
		for name, d := range documents {
			packed := bytes.Clone(p.Pack(d.document))
			if packed[0] != d.how {
				t.Errorf("%s: packed in way %d, want %d (%d of %d bytes)", name, packed[0], d.how, len(packed), len(d.document))
			}
			if len(packed) > len(d.document)+1 {
				t.Errorf("%s: %d bytes of %d", name, len(packed), len(d.document))
			}
			var readers sync.WaitGroup
			for range 4 {
				readers.Go(func() {
					if got, err := Unpack(packed); err != nil || !bytes.Equal(got, d.document) {
						t.Errorf("%s: %d bytes became %d (%v)", name, len(d.document), len(got), err)
					}
				})
			}
			readers.Wait()
		}
	}
}

// TestOrdinaryDocumentsTakeHalf holds what packing is for.
func TestOrdinaryDocumentsTakeHalf(t *testing.T) {
	t.Parallel()
	d := message(ordinary)
	if got := len(new(Packer).Pack(d)); got*2 > len(d) {
		t.Errorf("%d bytes take %d", len(d), got)
	}
}

// TestDictionaryAndCodeNeverChange: stored documents cannot be read with others. New ones
// get numbers of their own.
func TestDictionaryAndCodeNeverChange(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ is, was string }{
		"dictionary 1": {dictionary1, "1dd3ab4dbccd658c4ef8449477394287f9e86959ba2fa5f583789b34e37a2bdc"},
		"code 1":       {code1, "d2a6f065f71f4eb6f007755f605b29d809a704563ea20405bb2a6842c3e4e667"},
	} {
		if got := fmt.Sprintf("%x", sha256.Sum256([]byte(c.is))); got != c.was {
			t.Errorf("%s has the hash %s, and had %s", name, got, c.was)
		}
	}
}

// FuzzUnpack: whatever the bytes, unpacking ends with an error or a document that is not
// larger than allowed and packs again.
func FuzzUnpack(f *testing.F) {
	var p Packer
	for _, d := range [][]byte{nil, []byte("{}"), message(ordinary), noise(100), bytes.Repeat(noise(100), 3)} {
		f.Add(bytes.Clone(p.Pack(d)))
	}
	f.Add([]byte{packedCoded, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{packedS2, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, packed []byte) {
		document, err := Unpack(packed)
		if err != nil {
			return
		}
		if len(document) > max(MostUnpacked, len(packed)) {
			t.Fatalf("%d bytes became %d", len(packed), len(document))
		}
		if again, err := Unpack(new(Packer).Pack(document)); err != nil || !bytes.Equal(again, document) {
			t.Errorf("packed again, %d bytes became %d (%v)", len(document), len(again), err)
		}
	})
}

func BenchmarkPack(b *testing.B) {
	d := message(ordinary)
	var p Packer
	b.ReportAllocs()
	for b.Loop() {
		p.Pack(d)
	}
	b.ReportMetric(float64(len(d)), "B/document")
	b.ReportMetric(float64(len(p.packed)), "B/packed")
}

func BenchmarkUnpack(b *testing.B) {
	packed := new(Packer).Pack(message(ordinary))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Unpack(packed); err != nil {
			b.Fatal(err)
		}
	}
}
