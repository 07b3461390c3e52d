package install

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// composeFile is a Compose file, as far as these tests know the format. They refuse a file
// with anything else in it.
type composeFile struct {
	Services   map[string]composeService
	Volumes    map[string]any
	Secrets    map[string]struct{ File string }
	Extensions map[string]any `yaml:",inline"` // x-…
}

type composeService struct {
	Image           string
	Command         []string
	Environment     map[string]string
	Volumes         []string
	Secrets         []string
	Ports           []string
	Restart         string
	DependsOn       []string `yaml:"depends_on"`
	ReadOnly        bool     `yaml:"read_only"`
	CapDrop         []string `yaml:"cap_drop"`
	SecurityOpt     []string `yaml:"security_opt"`
	StopGracePeriod string   `yaml:"stop_grace_period"`
	HealthCheck     struct {
		Test        []string
		StartPeriod string `yaml:"start_period"`
		Timeout     string
	}
}

func composeOf(t *testing.T, path string) (c composeFile) {
	t.Helper()
	decoder := yaml.NewDecoder(strings.NewReader(read(t, path)))
	decoder.KnownFields(true)
	if err := decoder.Decode(&c); err != nil {
		t.Fatal(err)
	}
	for name := range c.Extensions {
		if !strings.HasPrefix(name, "x-") {
			t.Fatalf("%s has %s, which these tests do not know", path, name)
		}
	}
	return c
}

// TestComposeConfigures: the variables that the Compose file sets make a Caddyfile
// of the image's that Caddy takes.
func TestComposeConfigures(t *testing.T) {
	t.Parallel()
	environment := composeOf(t, "../../examples/docker/compose.yml").Services["relay"].Environment
	if len(environment) < 3 {
		t.Fatalf("it sets %v", environment)
	}
	cmd := exec.CommandContext(t.Context(), caddy(t), "adapt", "--config", "../../packaging/image/Caddyfile")
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	for name, value := range environment {
		if !strings.Contains(read(t, "../../packaging/image/Caddyfile"), "{$"+name) {
			t.Errorf("the image does not know %s", name)
		}
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, part := range []string{`"path":"/data/store"`, `"project":"proj_xyz"`, `"secret":"{file./run/secrets/crm}"`} {
		if !strings.Contains(string(out), part) {
			t.Errorf("the configuration lacks %s:\n%s", part, out)
		}
	}
}

// TestKubernetesConfigures: Caddy takes the Caddyfiles of the manifests.
func TestKubernetesConfigures(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"badger", "jetstream"} {
		cmd := exec.CommandContext(t.Context(), caddy(t), "adapt", "--config", "../../examples/kubernetes/"+name+"/Caddyfile")
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		for _, part := range []string{`"engine":"` + name + `"`, `"secret":"{file./run/secrets/relay/crm}"`, `"handler":"userhero_health"`} {
			if !strings.Contains(string(out), part) {
				t.Errorf("the configuration of %s lacks %s:\n%s", name, part, out)
			}
		}
	}
}
