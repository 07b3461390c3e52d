// Package monitoring_test keeps the files of this folder true: each parses, each
// names only metrics and refusal reasons that the relay has, and the alerts see
// what their cases say. The relay's side is read from its source, because a collector
// without samples shows nothing when it is scraped.
package monitoring_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// sources are the folders that make the metrics and give the reasons.
var sources = []string{"../../caddymodule/telemetry", "../../intake", "../../relay"}

// files are those that may name metrics.
var files = []string{"prometheus.yml", "rules.yml", "rules_test.yml", "dashboard.json", "otel-collector.yml"}

var (
	metricName  = regexp.MustCompile(`\buserhero_[a-z0-9_]+`)
	reasonMatch = regexp.MustCompile(`reason(?:=~?|!=|!~)"([^"]+)"`)
)

// TestEveryMetricNamedExists also fails where a metric is not watched at all, and
// where a counter or gauge is used as if it had buckets.
func TestEveryMetricNamedExists(t *testing.T) {
	t.Parallel()
	known := relayMetrics(t)
	used := make(map[string]bool)
	for _, file := range files {
		for _, name := range metricName.FindAllString(read(t, file), -1) {
			base := name
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				if b, ok := strings.CutSuffix(name, suffix); ok && known[b] == histogram {
					base = b
				}
			}
			if _, ok := known[base]; !ok {
				t.Errorf("%s names %s, which the relay does not have", file, name)
			}
			if known[base] == histogram && base == name {
				t.Errorf("%s names the histogram %s without _bucket, _sum or _count", file, name)
			}
			used[base] = true
		}
	}
	for name := range known {
		if !used[name] {
			t.Errorf("the relay has %s and nothing here shows it", name)
		}
	}
}

// TestEveryReasonNamedExists: an alert on a reason that nobody gives would stay
// silent for ever.
func TestEveryReasonNamedExists(t *testing.T) {
	t.Parallel()
	literals := make(map[string]bool)
	inspect(t, func(n ast.Node) bool {
		if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
			literals[unquote(t, l)] = true
		}
		return true
	})
	found := 0
	for _, file := range []string{"rules.yml", "dashboard.json"} {
		// In JSON the quotes of an expression are escaped.
		text := strings.ReplaceAll(read(t, file), `\"`, `"`)
		for _, match := range reasonMatch.FindAllStringSubmatch(text, -1) {
			for reason := range strings.SplitSeq(match[1], "|") {
				found++
				if !literals[reason] {
					t.Errorf("%s names the reason %q, which the relay never gives", file, reason)
				}
			}
		}
	}
	if found == 0 {
		t.Error("no reason found; has the way they are written changed?")
	}
}

// TestDashboardIsWhole: what Grafana would show as an empty or hidden panel.
func TestDashboardIsWhole(t *testing.T) {
	t.Parallel()
	type panel struct {
		ID      int
		Type    string
		Title   string
		GridPos struct{ X, Y, W, H int }
		Targets []struct{ Expr string }
	}
	var dashboard struct {
		UID, Title string
		Panels     []panel
		Templating struct{ List []struct{ Name string } }
	}
	if err := json.Unmarshal([]byte(read(t, "dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	if dashboard.UID == "" || dashboard.Title == "" || len(dashboard.Panels) == 0 {
		t.Fatal("no uid, title or panels")
	}
	variables := []string{"__rate_interval"} // Grafana's own
	for _, v := range dashboard.Templating.List {
		variables = append(variables, v.Name)
	}
	variable := regexp.MustCompile(`\$(\w+)`)
	for i, p := range dashboard.Panels {
		at := p.GridPos
		if at.W < 1 || at.H < 1 || at.X < 0 || at.X+at.W > 24 {
			t.Errorf("panel %q does not fit in Grafana's 24 columns", p.Title)
		}
		for _, q := range dashboard.Panels[:i] {
			if p.ID == q.ID {
				t.Errorf("panels %q and %q have the same id", p.Title, q.Title)
			}
			o := q.GridPos
			if at.X < o.X+o.W && o.X < at.X+at.W && at.Y < o.Y+o.H && o.Y < at.Y+at.H {
				t.Errorf("panels %q and %q overlap", p.Title, q.Title)
			}
		}
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q asks for nothing", p.Title)
		}
		for _, target := range p.Targets {
			if !metricName.MatchString(target.Expr) {
				t.Errorf("panel %q asks for no metric of the relay", p.Title)
			}
			for _, use := range variable.FindAllStringSubmatch(target.Expr, -1) {
				if !slices.Contains(variables, use[1]) {
					t.Errorf("panel %q uses $%s, which is not defined", p.Title, use[1])
				}
			}
		}
	}
}

// TestCollectorPipelinesAreDefined: every component a pipeline names is
// configured, and none is configured in vain.
func TestCollectorPipelinesAreDefined(t *testing.T) {
	t.Parallel()
	type pipeline struct{ Receivers, Processors, Exporters []string }
	var config struct {
		Receivers, Processors, Exporters map[string]any
		Service                          struct{ Pipelines map[string]pipeline }
	}
	parse(t, "otel-collector.yml", &config)
	for _, signal := range []string{"traces", "metrics"} {
		p, ok := config.Service.Pipelines[signal]
		if !ok || len(p.Receivers) == 0 || len(p.Exporters) == 0 {
			t.Errorf("no whole pipeline for %s", signal)
		}
	}
	for kind, part := range map[string]struct {
		defined map[string]any
		named   func(pipeline) []string
	}{
		"receiver":  {config.Receivers, func(p pipeline) []string { return p.Receivers }},
		"processor": {config.Processors, func(p pipeline) []string { return p.Processors }},
		"exporter":  {config.Exporters, func(p pipeline) []string { return p.Exporters }},
	} {
		used := make(map[string]bool)
		for signal, p := range config.Service.Pipelines {
			for _, name := range part.named(p) {
				used[name] = true
				if _, ok := part.defined[name]; !ok {
					t.Errorf("%s: the %s %s is not defined", signal, kind, name)
				}
			}
		}
		for name := range part.defined {
			if !used[name] {
				t.Errorf("no pipeline uses the %s %s", kind, name)
			}
		}
	}
}

// TestEveryAlertHasACase: each alert of rules.yml says how bad it is and what to
// do, links to its runbook, and rules_test.yml plays it.
func TestEveryAlertHasACase(t *testing.T) {
	t.Parallel()
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr         string
				Labels, Annotations map[string]string
			}
		}
	}
	parse(t, "rules.yml", &rules)
	cases, runbooks := read(t, "rules_test.yml"), read(t, "../../docs/runbooks.md")
	alerts := 0
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			if rule.Alert == "" {
				continue
			}
			alerts++
			if s := rule.Labels["severity"]; s != "critical" && s != "warning" {
				t.Errorf("%s has the severity %q", rule.Alert, s)
			}
			if rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
				t.Errorf("%s does not say what happened and what to do", rule.Alert)
			}
			const runbook = "https://github.com/userhero/relay/blob/main/docs/runbooks.md#"
			if rule.Annotations["runbook_url"] != runbook+strings.ToLower(rule.Alert) || !strings.Contains(runbooks, "\n## "+rule.Alert+"\n") {
				t.Errorf("%s does not link to its section of docs/runbooks.md", rule.Alert)
			}
			if !regexp.MustCompile(`\b` + rule.Alert + `\b`).MatchString(cases) {
				t.Errorf("no case for %s", rule.Alert)
			}
		}
	}
	if alerts == 0 {
		t.Error("no alerts")
	}
}

// TestPromtoolAgrees runs what an operator would.
func TestPromtoolAgrees(t *testing.T) {
	t.Parallel()
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("promtool is missing; install the Debian package prometheus")
		}
		t.Skip("promtool is missing; install the Debian package prometheus to check the rules")
	}
	for _, args := range [][]string{
		{"check", "config", "prometheus.yml"},
		{"check", "rules", "rules.yml"},
		{"test", "rules", "rules_test.yml"},
	} {
		if out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

type kind int

const (
	single kind = iota // a counter or a gauge
	histogram
)

// relayMetrics are the names given to client_golang's constructors.
func relayMetrics(t *testing.T) map[string]kind {
	t.Helper()
	metrics := make(map[string]kind)
	inspect(t, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		constructor, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || !strings.HasPrefix(constructor.Sel.Name, "New") {
			return true
		}
		of := single
		if strings.HasPrefix(constructor.Sel.Name, "NewHistogram") {
			of = histogram
		}
		for _, argument := range call.Args {
			for _, value := range nameIn(argument) {
				if name := unquote(t, value); strings.HasPrefix(name, "userhero_") {
					metrics[name] = of
				}
			}
		}
		return true
	})
	if len(metrics) == 0 {
		t.Fatal("no metrics found; has the way they are made changed?")
	}
	return metrics
}

// nameIn is the string itself, or that of the field Name of an Opts literal.
func nameIn(argument ast.Expr) []*ast.BasicLit {
	switch a := argument.(type) {
	case *ast.BasicLit:
		if a.Kind == token.STRING {
			return []*ast.BasicLit{a}
		}
	case *ast.CompositeLit:
		for _, element := range a.Elts {
			field, ok := element.(*ast.KeyValueExpr)
			if !ok {
				continue
			}
			if key, ok := field.Key.(*ast.Ident); ok && key.Name == "Name" {
				return nameIn(field.Value)
			}
		}
	}
	return nil
}

// inspect walks the files of sources without their tests.
func inspect(t *testing.T, visit func(ast.Node) bool) {
	t.Helper()
	var paths []string
	for _, folder := range sources {
		found, err := filepath.Glob(filepath.Join(folder, "*.go"))
		if err != nil || len(found) == 0 {
			t.Fatalf("no files in %s: %v", folder, err)
		}
		paths = append(paths, found...)
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, visit)
	}
}

func unquote(t *testing.T, l *ast.BasicLit) string {
	t.Helper()
	s, err := strconv.Unquote(l.Value)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Clean(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func parse(t *testing.T, name string, into any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(read(t, name)), into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}
