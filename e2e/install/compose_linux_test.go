package install

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/e2e/natsproc"
	"github.com/userhero/relay/e2e/netns"
)

// composition is a Compose file whose services run, each in a container on a host of its own
// that reaches only the other hosts. podman runs them, for Compose itself needs a daemon and
// a network.
type composition struct {
	t      *testing.T
	file   composeFile
	folder string // a copy of the file's folder
	podman string
	images map[string]string // what stands for the images that the file names
	hosts  map[string]*netns.Host
}

func newComposition(t *testing.T, folder string) *composition {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("running containers on a network of their own needs root")
	}
	c := &composition{t: t, file: composeOf(t, filepath.Join(folder, "compose.yml")), folder: t.TempDir(), images: map[string]string{}, hosts: map[string]*netns.Host{}}
	if err := os.CopyFS(c.folder, os.DirFS(folder)); err != nil {
		t.Fatal(err)
	}
	network, err := netns.New(len(c.file.Services))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(network.Close)
	for name := range c.file.Services {
		c.hosts[name] = network.Hosts()[len(c.hosts)]
	}
	c.podman = podman(t)
	return c
}

// on is a command line that runs on the host of a service.
func (c *composition) on(name, line string) string {
	return strings.Join(c.hosts[name].Command(), " ") + " " + line
}

// up starts every service after those that it depends on.
func (c *composition) up() {
	c.t.Helper()
	started := map[string]bool{}
	for len(started) < len(c.file.Services) {
		before := len(started)
		for name, s := range c.file.Services {
			if !started[name] && !slices.ContainsFunc(s.DependsOn, func(other string) bool { return !started[other] }) {
				c.run(name)
				started[name] = true
			}
		}
		if len(started) == before {
			c.t.Fatal("services depend on each other")
		}
	}
}

func (c *composition) run(name string) {
	c.t.Helper()
	s := c.file.Services[name]
	image, ok := c.images[s.Image]
	if !ok {
		c.t.Fatalf("%s has the image %s, and there are %v", name, s.Image, c.images)
	}
	args := slices.Concat(c.hosts[name].Command(), strings.Fields(c.podman))
	// The network of the host is that which podman runs in. Nobody starts health checks here.
	args = append(args, "run", "--detach", "--name", name, "--network", "host", "--health-interval", "disable",
		"--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096", "--restart", s.Restart)
	for other, host := range c.hosts {
		args = append(args, "--add-host", other+":"+host.Address)
	}
	if s.ReadOnly {
		args = append(args, "--read-only", "--read-only-tmpfs=false")
	}
	for _, capability := range s.CapDrop {
		args = append(args, "--cap-drop", capability)
	}
	for _, option := range s.SecurityOpt {
		args = append(args, "--security-opt", option)
	}
	for _, volume := range s.Volumes {
		if from, _, _ := strings.Cut(volume, ":"); !strings.HasPrefix(from, "./") {
			if _, ok := c.file.Volumes[from]; !ok {
				c.t.Fatalf("%s mounts the volume %s, which the file does not declare", name, from)
			}
		} else {
			volume = filepath.Join(c.folder, volume)
		}
		args = append(args, "--volume", volume)
	}
	for _, secret := range s.Secrets {
		args = append(args, "--volume", filepath.Join(c.folder, c.file.Secrets[secret].File)+":/run/secrets/"+secret+":ro")
	}
	for variable, value := range s.Environment {
		args = append(args, "--env", variable+"="+value)
	}
	args = append(append(args, image), s.Command...)
	if out, err := exec.CommandContext(c.t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
		c.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// logs are those of every service, for a test that has failed.
func (c *composition) logs() string {
	var all bytes.Buffer
	for name := range c.file.Services {
		out, _ := shell(c.t, c.podman+"logs --tail 15 "+name+" 2>&1")
		all.WriteString("\n" + name + ":\n" + out)
	}
	return all.String()
}

// healthy waits for the container's own check.
func (c *composition) healthy(name string, within time.Duration) {
	c.t.Helper()
	eventually(c.t, within, c.on(name, c.podman+"exec "+name+" /usr/bin/caddy userhero health"))
}

const (
	relayImage = "userhero-relay:${RELAY_VERSION:-latest}" // as the files name it
	submit     = `curl -sSf --max-time 30 http://127.0.0.1:8080/feedback -H 'Content-Type: application/json' -d '{"message":"hello"}'`
)

// TestComposeRuns: the relay of examples/docker starts with the secrets that the head of the
// file makes, without rights and on a read-only root, and takes feedback.
func TestComposeRuns(t *testing.T) {
	t.Parallel()
	c := newComposition(t, "../../examples/docker")
	c.images[relayImage] = loaded(t, c.podman)
	for line := range strings.Lines(read(t, filepath.Join(c.folder, "compose.yml"))) {
		if command, ok := strings.CutPrefix(line, "#   "); ok && !strings.HasPrefix(command, "docker ") {
			must(t, "cd "+c.folder+"; "+command)
		}
	}
	c.up()
	relay := c.file.Services["relay"]
	check := strings.Join(relay.HealthCheck.Test, " ")
	if want := "CMD /usr/bin/caddy userhero health"; check != want || relay.Restart != "unless-stopped" || !slices.Equal(relay.Ports, []string{"127.0.0.1:8080:8080"}) {
		t.Errorf("the check is %q, want %q; %+v", check, want, relay)
	}
	c.healthy("relay", 30*time.Second)
	must(t, c.on("relay", submit))
	must(t, c.on("relay", c.podman+"exec relay /usr/bin/caddy userhero deliveries | grep ' crm '"))
	if logs := must(t, c.podman+"logs relay 2>&1"); strings.Contains(logs, `"level":"error"`) {
		t.Errorf("it logs errors:\n%s", logs)
	}
	must(t, c.podman+"stop --time 60 relay")
	if logs := must(t, c.podman+"logs relay 2>&1"); !strings.Contains(logs, `"exit_code":0`) {
		t.Errorf("it did not stop in order:\n%s", logs)
	}
}

// TestClusterComposeRuns: three NATS servers, two relays and a load balancer deliver, go on
// without a server and a relay, and take both back.
func TestClusterComposeRuns(t *testing.T) {
	t.Parallel()
	c := newComposition(t, "../../examples/cluster")
	c.images[relayImage] = loaded(t, c.podman)
	c.images["nats:"+strings.TrimPrefix(natsproc.Version, "v")+"-alpine"] = natsImage(t, c.podman)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.logs())
		}
	})
	c.up()
	c.healthy("relay1", 2*time.Minute) // the first start makes the streams
	c.healthy("relay2", 2*time.Minute)
	for path, status := range map[string]string{"/healthz": "200", "/relay/": "200"} {
		eventually(t, 30*time.Second, "test $("+c.on("front", "curl -sS -o /dev/null -w '%{http_code}' http://127.0.0.1:8080"+path)+") = "+status)
	}
	delivered := func(n string) {
		t.Helper()
		eventually(t, time.Minute, "test $("+c.on("relay2", c.podman+"exec relay2 /usr/bin/caddy userhero deliveries --state delivered | grep -c dlv_")+") -ge "+n)
	}
	must(t, c.on("front", submit))
	delivered("1")

	must(t, c.podman+"stop --time 0 n1 relay1")
	eventually(t, time.Minute, c.on("front", submit))
	delivered("2")

	for _, name := range []string{"n1", "relay1"} {
		must(t, c.on(name, c.podman+"start "+name))
	}
	c.healthy("relay1", time.Minute)
}

// natsImage makes an image of the nats-server of the tests: NATS' own cannot be fetched
// everywhere.
func natsImage(t *testing.T, podman string) string {
	t.Helper()
	server, err := natsproc.Binary()
	if err != nil {
		t.Fatal(err)
	}
	return must(t, "cd "+t.TempDir()+"; cp "+server+` nats-server
		{ ldd nats-server 2>/dev/null || true; } | { grep -o '/[^ ]*' || true; } | xargs -r cp --parents -L -t .
		tar -c . | `+podman+`import --quiet --change 'ENTRYPOINT ["/nats-server"]' - | tail -1`)
}
