package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestExportsWithin256MiB: with 256 MiB for the process and the files that it maps, it exports
// every feedback once, as JSON lines and as CSV. In make soak, there are 1,000,000.
func TestExportsWithin256MiB(t *testing.T) {
	badgerOnly(t, "the memory of its tables")
	g := newCgroup(t, 256<<20)
	s := startRelay(t, relayOptions{binary: g.binary(t)})
	many := 20_000
	if os.Getenv("SOAK") != "" {
		many = 1_000_000
	}
	l := newLoad(t)
	l.start(s, 64, false)
	eventually(t, time.Hour, fmt.Sprintf("%d feedbacks are stored", many), func() bool { return l.acknowledgements() >= many })
	l.end()
	if l.broken > 0 {
		t.Fatalf("%d submissions had no answer", l.broken)
	}
	s.killAndRestart() // so that nothing is left of the load in its memory
	client := s.newClient()
	client.Timeout = 0
	defer client.CloseIdleConnections()
	for _, format := range []string{"json", "csv"} {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		peak, began, first := anonymousPeak(ctx, s), time.Now(), time.Duration(0)
		response, err := client.Get("http://" + s.admin + "/userhero/feedback?format=" + format)
		if err != nil {
			t.Fatal(err)
		}
		seen, size := make(map[string]bool, many), int64(0)
		rows := bufio.NewScanner(response.Body)
		for n := 0; rows.Scan(); n++ {
			row := rows.Bytes()
			size += int64(len(row)) + 1
			id, _, _ := bytes.Cut(row, []byte(","))
			if first == 0 {
				first = time.Since(began)
			}
			if format == "csv" && n == 0 {
				continue // the header
			}
			name := strings.TrimSuffix(strings.TrimPrefix(string(id), `{"id":"`), `"`)
			if seen[name] || !l.acknowledged[name] {
				t.Fatalf("%s: row %d has %s twice, or it was never acknowledged: %s", format, n, name, row)
			}
			seen[name] = true
		}
		err = errors.Join(rows.Err(), response.Body.Close())
		took := time.Since(began)
		stop()
		most := <-peak
		t.Logf("%s: %d feedbacks, %d MB in %s, the first after %s; RssAnon %d MiB, the group %s bytes at most", format, len(seen), size/1_000_000,
			took.Round(time.Millisecond), first.Round(time.Millisecond), most>>20, strings.TrimSpace(read(t, filepath.Join(g.path, g.peakFile))))
		if err != nil || len(seen) != l.acknowledgements() {
			t.Errorf("%s: %d feedbacks, want %d; %v", format, len(seen), l.acknowledgements(), err)
		}
		if n := g.killed(t); n != "0" || most == 0 || most > mostAnonymous {
			t.Errorf("%s: RssAnon was %d MiB, and %s processes were killed for their memory", format, most>>20, n)
		}
	}
}
