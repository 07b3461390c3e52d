package install

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestComposeConfigures: the variables that the Compose file sets make a Caddyfile
// of the image's that Caddy takes.
func TestComposeConfigures(t *testing.T) {
	t.Parallel()
	var compose struct {
		Services map[string]struct{ Environment map[string]string }
	}
	if err := yaml.Unmarshal([]byte(read(t, "../../examples/docker/compose.yml")), &compose); err != nil {
		t.Fatal(err)
	}
	environment := compose.Services["relay"].Environment
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
