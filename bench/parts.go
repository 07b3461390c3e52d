package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// parts say to which part of the work a stack belongs: to the first one of which a function
// is in the stack.
var parts = []struct {
	name      string
	functions []string // how their names begin
}{
	{"garbage collection", []string{"runtime.gcBgMarkWorker", "runtime.gcAssistAlloc", "runtime.bgsweep", "runtime.bgscavenge"}},
	{"syncing commits", []string{"github.com/userhero/relay/queue/badgerqueue/badgercompat.(*CommitLog)"}},
	{"Badger's log and memtable", []string{"github.com/dgraph-io/badger/v4.(*DB).doWrites", "github.com/dgraph-io/badger/v4.(*DB).writeRequests"}},
	{"flushing and merging tables", []string{
		"github.com/dgraph-io/badger/v4.(*levelsController)", "github.com/dgraph-io/badger/v4.(*DB).handleMemTableFlush",
		"github.com/dgraph-io/badger/v4.(*DB).flushMemtable", "github.com/dgraph-io/badger/v4/table.(*Builder)",
	}},
	{"packing documents", []string{"github.com/userhero/relay/queue/badgerqueue/codec.(*Packer)", "github.com/userhero/relay/queue/badgerqueue/codec.Unpack"}},
	{"the rest of the store", []string{"github.com/userhero/relay/queue/badgerqueue.", "github.com/dgraph-io/badger"}},
	{"sending", []string{"github.com/userhero/relay/relay/deliver", "github.com/userhero/relay/relay.(*webhook)", "github.com/userhero/relay/relay.(*workerPool)"}},
	{"intake", []string{"github.com/userhero/relay/intake", "github.com/userhero/relay/relay.", "github.com/userhero/relay/event"}},
	{"HTTP of Caddy and net/http", []string{"net/http.", "github.com/caddyserver/caddy"}},
}

const otherPart = "the runtime, and the rest"

// printParts prints what share of a CPU profile each part has, and, of cpu microseconds an
// event, how many. It needs the go command.
func printParts(ctx context.Context, w io.Writer, profile string, cpu float64) error {
	text, err := exec.CommandContext(ctx, "go", "tool", "pprof", "-traces", profile).Output() //nolint:gosec // a file of ours
	if err != nil {
		return fmt.Errorf("go tool pprof: %w", err)
	}
	took, all := partsOf(text)
	names := slices.SortedFunc(maps.Keys(took), func(a, b string) int { return int(took[b] - took[a]) })
	for _, name := range names {
		share := float64(took[name]) / float64(all)
		fmt.Fprintf(w, "%3.0f %% %7.1f µs  %s\n", 100*share, share*cpu, name)
	}
	return nil
}

// partsOf adds up the samples that `go tool pprof -traces` prints: separated by dashes, each
// a duration and the functions of its stack, innermost first.
func partsOf(traces []byte) (took map[string]time.Duration, all time.Duration) {
	took = make(map[string]time.Duration)
	for trace := range bytes.SplitSeq(traces, []byte("-----------+")) {
		_, trace, _ = bytes.Cut(trace, []byte("\n"))
		value, _, _ := bytes.Cut(bytes.TrimSpace(trace), []byte(" "))
		d, err := time.ParseDuration(string(value))
		if err != nil {
			continue // the head, or labels
		}
		var functions []string
		for line := range strings.Lines(string(trace)) {
			if fields := strings.Fields(strings.ReplaceAll(line, "(inline)", "")); len(fields) > 0 {
				functions = append(functions, fields[len(fields)-1])
			}
		}
		took[partOf(functions)] += d
		all += d
	}
	return took, all
}

func partOf(functions []string) string {
	for _, p := range parts {
		for _, begin := range p.functions {
			if slices.ContainsFunc(functions, func(f string) bool { return strings.HasPrefix(f, begin) }) {
				return p.name
			}
		}
	}
	return otherPart
}
