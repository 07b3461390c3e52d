package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// report is the JSON result of the command.
type report struct {
	At       time.Time `json:"at"`
	Machine  machine   `json:"machine"`
	Pairs    int       `json:"pairs"`
	Duration string    `json:"duration"` // of the load of each run
	Figures  []figure  `json:"figures"`
}

// machine describes the machine, on which the figures depend.
type machine struct {
	System string `json:"system"`
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Go     string `json:"go"`
}

func newReport(o options) *report {
	return &report{
		At: time.Now().UTC().Truncate(time.Second), Pairs: o.pairs, Duration: o.duration.String(),
		Machine: machine{System: runtime.GOOS + "/" + runtime.GOARCH, CPU: cpu(), Cores: runtime.NumCPU(), Go: runtime.Version()},
	}
}

func (r *report) add(f []figure) { r.Figures = append(r.Figures, f...) }

func (r *report) printHead(w io.Writer, cluster bool) {
	relay, baseline := "relay", "Caddy's"
	if cluster {
		relay, baseline = "cluster", "Badger's"
	}
	fmt.Fprintf(w, "%s, %s, %d cores, %s; medians of %d runs or pairs of %s; generator, Caddy and sink on this one machine\n\n",
		r.Machine.CPU, r.Machine.System, r.Machine.Cores, r.Machine.Go, r.Pairs, r.Duration)
	fmt.Fprintf(w, "%-60s %10s %10s  %-14s %8s %6s %8s\n", "figure", relay, baseline, "", "result", "±", "target")
}

func (f figure) print(w io.Writer) {
	fmt.Fprintf(w, "%-60s %10s", f.Row, number3(median(f.Relay)))
	if f.Baseline != nil {
		fmt.Fprintf(w, " %10s  %-14s", number3(median(f.Baseline)), f.Against)
	} else {
		fmt.Fprintf(w, " %10s  %-14s", "", f.Unit)
	}
	target, verdict := "", ""
	switch {
	case !f.bound():
	case f.Loud != "":
		verdict = "not judged: " + f.Loud
	case f.Met:
		verdict = "met"
	default:
		verdict = "MISSED"
	}
	switch {
	case f.Least != 0:
		target = "≥ " + number3(f.Least)
	case f.Most != 0:
		target = "≤ " + number3(f.Most)
	}
	fmt.Fprintf(w, " %8s %4.0f %% %8s  %s", number3(f.Result), 100*f.Spread, target, verdict)
	if len(f.Notes) > 0 {
		fmt.Fprintf(w, "  (%s)", f.Notes[len(f.Notes)-1])
	}
	fmt.Fprintln(w)
}

// number3 formats large numbers without decimals and small ones with three digits.
func number3(x float64) string {
	if x >= 100 {
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.3g", x)
}

func (r *report) write(folder string) (string, error) {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return "", err
	}
	path := filepath.Join(folder, r.At.Format("20060102T150405Z")+".json")
	return path, os.WriteFile(path, append(text, '\n'), 0o600)
}
