package install

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// podman is the beginning of command lines for images and containers of this test,
// which are gone with it. runc, because crun refuses machines that have both
// versions of cgroups.
func podman(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"podman", "runc"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("running containers needs the Debian packages podman and runc: %v", err)
		}
	}
	if os.Getuid() != 0 {
		t.Skip("running containers without a user session needs root")
	}
	folder, err := os.MkdirTemp("/tmp", "podman") //nolint:usetesting // podman takes a path of 50 characters at most
	if err != nil {
		t.Fatal(err)
	}
	podman := "podman --root " + folder + "/root --runroot " + folder + "/run --cgroup-manager cgroupfs --runtime runc "
	t.Cleanup(func() {
		// Relays would wait for the servers that are removed before them. A container that ends by
		// itself while it is removed is an error of the first try.
		remove := podman + "rm --all --force --time 0 --volumes"
		if out, err := shell(t, "{ "+remove+" || "+remove+"; }; "+podman+"system prune --all --force; rm -rf "+folder); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
	return podman
}

// loaded loads the release's image and returns its name.
func loaded(t *testing.T, podman string) string {
	t.Helper()
	archives, err := filepath.Glob(filepath.Join(dist(t), "*_linux_amd64.docker.tar"))
	if err != nil || len(archives) != 1 {
		t.Fatalf("%v, %v", archives, err)
	}
	return strings.TrimPrefix(must(t, podman+"load --quiet --input "+archives[0]+" | tail -1"), "Loaded image: ")
}

// TestImage: the image runs as a user without rights, on a read-only root, without
// capabilities, and keeps what it took in /data. It has no network but loopback.
func TestImage(t *testing.T) {
	t.Parallel()
	podman := podman(t)
	image := loaded(t, podman)

	inspect := func(format string) string {
		t.Helper()
		return must(t, podman+"image inspect --format '"+format+"' "+image)
	}
	for format, want := range map[string]string{
		"{{.User}}":                 "65532:65532",
		"{{.Config.StopSignal}}":    "SIGTERM",
		"{{.HealthCheck.Test}}":     "[CMD /usr/bin/caddy userhero health]",
		"{{.Architecture}}/{{.Os}}": "amd64/linux",
		"{{len .RootFS.Layers}}":    "1",
		"{{lt .Size 70000000}}":     "true",
		"{{index .Labels \"org.opencontainers.image.licenses\"}}": "Apache-2.0",
	} {
		if got := inspect(format); got != want {
			t.Errorf("%s is %q, want %q", format, got, want)
		}
	}

	// Limits that a process without rights may set; nobody starts health checks here.
	const options = "run --detach --name relay --health-interval disable --ulimit nofile=4096:4096 --ulimit nproc=4096:4096 " +
		"--network none --read-only --read-only-tmpfs=false --cap-drop all --security-opt no-new-privileges --volume data:/data "
	const webhook = `--env RELAY_OPTIONS='webhook crm {
		url https://crm.example.org/userhero
		secret {env.CRM_SECRET}
	}' --env CRM_SECRET=s3cret --env RELAY_DIRECTIVE='project proj_xyz' --env RELAY_CONSOLE='basic_auth {
		ada $2a$14$6wSFVVGQv8i8ayo5wiFt8uQ5qByO8H38NcpRbnohmkU/p7t1JpN5m
	}' `
	inside := func(line string) string {
		return "nsenter --net --target $(" + podman + "inspect --format '{{.State.Pid}}' relay) " + line
	}
	must(t, podman+options+webhook+image)
	eventually(t, 30*time.Second, podman+"healthcheck run relay || { "+podman+"logs relay; false; }")
	must(t, inside(`curl -sSf http://127.0.0.1:8080/feedback -H 'Content-Type: application/json' -d '{"message":"kept"}'`))
	for path, status := range map[string]string{"/healthz": "200", "/livez": "200", "/relay/": "401", "/other": "404"} {
		if got := must(t, inside("curl -sS -o /dev/null -w '%{http_code}' http://127.0.0.1:8080"+path)); got != status {
			t.Errorf("%s answers %s", path, got)
		}
	}
	if logs := must(t, podman+"logs relay 2>&1"); strings.Contains(logs, `"level":"error"`) {
		t.Errorf("it logs errors:\n%s", logs)
	}
	must(t, podman+"stop --time 60 relay")
	if logs := must(t, podman+"logs relay 2>&1"); !strings.Contains(logs, `"exit_code":0`) {
		t.Errorf("it did not stop in order:\n%s", logs)
	}

	t.Run("keeps what it took", func(t *testing.T) {
		must(t, podman+"rm relay; "+podman+options+webhook+image)
		eventually(t, 30*time.Second, podman+"exec relay /usr/bin/caddy userhero health")
		if out := must(t, podman+"exec relay /usr/bin/caddy userhero status"); !strings.Contains(out, "1 retrying") && !strings.Contains(out, "1 pending") {
			t.Errorf("after the start:\n%s", out)
		}
	})
	t.Run("starts without a variable", func(t *testing.T) {
		must(t, podman+"rm --force relay; "+podman+strings.Replace(options, "data:/data", "empty:/data", 1)+image)
		eventually(t, 30*time.Second, podman+"healthcheck run relay || { "+podman+"logs relay; false; }")
	})
}

// TestImageOfEveryArchitecture: the archive in OCI's format can be read by podman.
func TestImageOfEveryArchitecture(t *testing.T) {
	t.Parallel()
	podman := podman(t)
	id := must(t, podman+"pull --quiet oci-archive:$(echo "+dist(t)+"/*_linux.oci.tar)")
	if got := must(t, podman+"image inspect --format '{{.Architecture}} {{.ManifestType}}' "+id); got != "amd64 application/vnd.oci.image.manifest.v1+json" {
		t.Errorf("pulled %s", got)
	}
}
