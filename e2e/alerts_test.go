package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/userhero/relay/e2e/natsproc"
)

// hurry is by how much the rules' durations are shortened.
const hurry = 60

var (
	ruleDuration = regexp.MustCompile(`(\[|for: )(\d+)([smh])\b`)
	ruleFactor   = regexp.MustCompile(`\* (60|3600|86400)\b`)
)

// hurried shortens the durations of alert rules: ranges, "for", and factors of seconds.
func hurried(t *testing.T, rules string) string {
	t.Helper()
	number := func(text string) int {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	rules = ruleDuration.ReplaceAllStringFunc(rules, func(m string) string {
		part := ruleDuration.FindStringSubmatch(m)
		seconds := number(part[2]) * map[string]int{"s": 1, "m": 60, "h": 3600}[part[3]]
		return fmt.Sprintf("%s%dms", part[1], seconds*1000/hurry)
	})
	return ruleFactor.ReplaceAllStringFunc(rules, func(m string) string {
		return "* " + strconv.Itoa(number(strings.TrimPrefix(m, "* "))/hurry)
	})
}

// prometheusServer is a Prometheus that evaluates the rules of examples/monitoring.
type prometheusServer struct{ address string }

// startPrometheus scrapes targets, by the name that becomes their instance.
func startPrometheus(t *testing.T, rules string, targets map[string]string) prometheusServer {
	t.Helper()
	program, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("prometheus is missing; install the Debian package prometheus to fire the alerts")
	}
	dir := t.TempDir()
	config := "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\nrule_files: [rules.yml]\nscrape_configs:\n- job_name: userhero-relay\n  static_configs:\n"
	for name, address := range targets {
		config += fmt.Sprintf("  - {targets: [%q], labels: {instance: %s}}\n", address, name)
	}
	for name, text := range map[string]string{"rules.yml": rules, "prometheus.yml": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := prometheusServer{freeAddress(t)}
	var log strings.Builder
	cmd := exec.CommandContext(t.Context(), program, "--config.file="+filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+p.address)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		showLog(t, "prometheus", log.String())
	})
	eventually(t, 60*time.Second, "Prometheus is ready", func() bool {
		response, err := http.Get("http://" + p.address + "/-/ready")
		if err != nil {
			return false
		}
		return response.Body.Close() == nil && response.StatusCode == http.StatusOK
	})
	return p
}

// query returns the label sets of a query's result.
func (p prometheusServer) query(t *testing.T, expr string) (series []map[string]string) {
	t.Helper()
	response, err := http.Get("http://" + p.address + "/api/v1/query?query=" + url.QueryEscape(expr))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var answer struct {
		Status, Error string
		Data          struct {
			Result []struct{ Metric map[string]string }
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || answer.Status != "success" {
		t.Fatalf("%s: %v %s", expr, err, answer.Error)
	}
	for _, r := range answer.Data.Result {
		series = append(series, r.Metric)
	}
	return series
}

// fired returns every alert that has fired so far, as "alert instance webhook".
func (p prometheusServer) fired(t *testing.T) (alerts []string) {
	t.Helper()
	for _, s := range p.query(t, `count_over_time(ALERTS{alertstate="firing"}[30m])`) {
		alerts = append(alerts, strings.TrimSpace(s["alertname"]+" "+s["instance"]+" "+s["webhook"]+s["name"]))
	}
	slices.Sort(alerts)
	return slices.Compact(alerts)
}

// wrongClock serves another relay's metrics with a clock that is two minutes ahead.
func wrongClock(t *testing.T, of string) string {
	t.Helper()
	clock := regexp.MustCompile(`(?m)^userhero_clock_timestamp_seconds .*$`)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		response, err := http.Get("http://" + of + "/metrics")
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer func() { _ = response.Body.Close() }()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = w.Write(clock.ReplaceAll(text, fmt.Appendf(nil, "userhero_clock_timestamp_seconds %d", time.Now().Unix()+120)))
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// certificate makes a certificate for a name, and returns its file and that of its key.
func certificate(t *testing.T, name string, lived, left time.Duration) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-lived), NotAfter: time.Now().Add(left),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// otherSite ends the site and begins another one with a certificate.
func otherSite(t *testing.T, name string, lived, left time.Duration) string {
	t.Helper()
	cert, key := certificate(t, name, lived, left)
	_, port, _ := strings.Cut(freeAddress(t), ":")
	return fmt.Sprintf("}\nhttps://%s:%s {\n tls %s %s\n respond 204", name, port, cert, key)
}

// hold answers after a while, or when the test ends.
func hold(t *testing.T, ended <-chan struct{}, d time.Duration) *receiver {
	t.Helper()
	return startReceiver(t, func(arrival) int {
		select {
		case <-time.After(d):
		case <-ended:
		}
		return http.StatusOK
	})
}

// TestAlerts fires each alert of examples/monitoring with a Prometheus that scrapes
// relays in trouble, in a sixtieth of the time, and no alert for a relay that is well.
// Then every query of the dashboard finds something.
func TestAlerts(t *testing.T) {
	badgerOnly(t, "max_disk")
	t.Parallel()
	ended, end := context.WithCancel(context.Background())
	defer end()
	rules := read(t, "../examples/monitoring/rules.yml")

	ok := startReceiver(t, nil)
	// A receiver that asks for a pause is neither slow nor down.
	pausing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	t.Cleanup(pausing.Close)
	healthy := startRelay(t, relayOptions{
		app:  fmt.Sprintf("webhook crm {\n url %s\n}\nwebhook pausing {\n url %s\n}\nmax_disk 1GiB", ok.url, pausing.URL),
		site: otherSite(t, "well.test", 24*time.Hour, 89*24*time.Hour),
	})

	flaky := startReceiver(t, func(a arrival) int {
		if a.attempt == "1" {
			return http.StatusInternalServerError
		}
		return http.StatusOK
	})
	slow, hanging := hold(t, ended.Done(), time.Second), hold(t, ended.Done(), time.Hour)
	cert, key := certificate(t, "client", 90*24*time.Hour, time.Hour)
	nobody := freeAddress(t)
	troubled := startRelay(t, relayOptions{
		grace: "1s",
		env:   []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + nobody},
		app: fmt.Sprintf(`
		webhook dead {
			url http://%s/
			retry 100ms 100ms 100ms
		}
		webhook flaky {
			url %s
			retry 100ms
		}
		webhook slow {
			url %s
			concurrency 1
		}
		webhook limited {
			url %s
			rate 6/m
		}
		webhook hanging {
			url %s
			timeout 10m
			concurrency 1
		}
		webhook filtered {
			url https://%[1]s/
			filter "data.message <= 2"
			tls_client_auth %[6]s %[7]s
		}
		group_notices 1s
		notify smtp {
			host %[1]s
			from relay@example.com
			to ops@example.com
			tls none
		}`, nobody, flaky.url, slow.url, ok.url, hanging.url, cert, key),
		site: otherSite(t, "expiring.test", 90*24*time.Hour, time.Hour),
	})

	sidecar := startRelay(t, relayOptions{intake: "passthrough", site: "respond 200"})
	full := startRelay(t, relayOptions{})
	full.options.app = "max_disk 1KiB"
	if err := full.reload(full.caddyfile(full.options)); err != nil {
		t.Fatal(err)
	}
	full.options.app = "" // to stop as the others do

	// A relay whose NATS server is away. It comes back before the relay is stopped, which
	// would otherwise wait for it.
	servers := startNATS(t, 1, natsproc.Options{})
	away := startRelay(t, relayOptions{nats: servers, app: fmt.Sprintf("webhook waiting {\n url %s\n}", ok.url)})
	servers[0].Kill()
	t.Cleanup(func() {
		if err := servers[0].Start(); err != nil {
			t.Error(err)
		}
	})

	for s, age := range map[*relayServer]time.Duration{healthy: time.Minute, troubled: time.Hour} {
		made := time.Now().Add(-age).UTC().Format(time.RFC3339)
		response, err := http.Post("http://"+s.admin+"/userhero/backup", "application/json", strings.NewReader(`{"made":"`+made+`"}`))
		if err != nil || response.Body.Close() != nil || response.StatusCode != http.StatusNoContent {
			t.Fatal(response, err)
		}
	}
	down := freeAddress(t)
	p := startPrometheus(t, hurried(t, rules), map[string]string{
		"healthy": healthy.admin, "troubled": troubled.admin, "sidecar": sidecar.admin, "full": full.admin, "away": away.admin,
		"clock": wrongClock(t, healthy.admin), "down": down,
	})

	var waiting sync.WaitGroup // submissions to the relay that is away wait for 12 s
	defer func() {
		end()
		waiting.Wait()
	}()
	waiting.Go(func() {
		for tick := time.NewTicker(time.Second); ended.Err() == nil; {
			waiting.Go(func() { _, _, _ = away.submit([]byte(`{"message":"x"}`)) })
			select {
			case <-tick.C:
			case <-ended.Done():
			}
		}
	})
	go func() {
		for tick := time.NewTicker(200 * time.Millisecond); ended.Err() == nil; {
			for _, s := range []*relayServer{healthy, troubled, full} {
				_, _, _ = s.submit([]byte(`{"message":"x"}`))
			}
			_, _, _ = troubled.submit([]byte(`{"message":""}`))
			_, _, _ = sidecar.post("text/xml", []byte(`<message/>`))
			select {
			case <-tick.C:
			case <-ended.Done():
			}
		}
	}()

	want := []string{
		"RelayDown down", "RelayNotReady full", "RelayStalled troubled hanging", "OldestDueTooOld troubled slow", "RateTooLow troubled limited",
		"WebhookFailing troubled dead", "WebhookDown troubled dead", "WebhookFailureRatio troubled flaky", "DiskFilling full", "EmailFailing troubled",
		"IntakeUnavailable full", "PassthroughMissing sidecar", "FilterFailing troubled filtered", "IntakeRejecting troubled", "BackupTooOld troubled",
		"CertificateExpiring troubled expiring.test", "CertificateExpiring troubled filtered", "ClockWrong clock",
		"RelayNotReady away", "IntakeUnavailable away", "WebhookWithoutRelay  waiting", "ServersNotAnswering away",
	}
	for _, alert := range regexp.MustCompile(`(?m)- alert: (\w+)`).FindAllStringSubmatch(rules, -1) {
		if !slices.ContainsFunc(want, func(w string) bool { return strings.HasPrefix(w, alert[1]+" ") }) {
			t.Errorf("nothing here fires %s", alert[1])
		}
	}
	var fired, missing []string
	for deadline := time.Now().Add(4 * time.Minute); ; time.Sleep(time.Second) {
		fired = p.fired(t)
		missing = slices.DeleteFunc(slices.Clone(want), func(w string) bool { return slices.Contains(fired, w) })
		if len(missing) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not fired: %v\nfired: %v", missing, fired)
		}
	}
	// Before its breaker opens, every attempt to the dead receiver fails.
	allowed := append(want, "WebhookFailureRatio troubled dead")
	if extra := slices.DeleteFunc(fired, func(f string) bool { return slices.Contains(allowed, f) }); len(extra) > 0 {
		t.Errorf("fired for nothing: %v", extra)
	}

	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "../examples/monitoring/dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	fill := strings.NewReplacer("$__rate_interval", "30s", "$job", "userhero-relay", "$instance", ".*", "$webhook", ".*")
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			if len(p.query(t, fill.Replace(target.Expr))) == 0 {
				t.Errorf("the panel %q is empty: %s", panel.Title, target.Expr)
			}
		}
	}
}
