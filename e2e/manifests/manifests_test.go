// Package manifests holds the tests of examples/kubernetes. They render each folder with
// kustomize, decode every object strictly into Kubernetes' and the Prometheus operator's
// own types, of the versions in go.mod, and ask the admission controller's own code
// whether its pods are restricted. It is a module of its own, because of these.
package manifests

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	disruption "k8s.io/api/policy/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const (
	folder = "../../examples/kubernetes"
	rules  = "../../examples/monitoring/rules.yml"
)

var update = flag.Bool("update", false, "write base/prometheusrule.yaml anew from examples/monitoring/rules.yml")

// kinds are the types of the objects that the manifests may have.
var kinds = map[string]func() any{
	"v1/Namespace":                            func() any { return new(core.Namespace) },
	"v1/Service":                              func() any { return new(core.Service) },
	"v1/ConfigMap":                            func() any { return new(core.ConfigMap) },
	"v1/PersistentVolumeClaim":                func() any { return new(core.PersistentVolumeClaim) },
	"apps/v1/StatefulSet":                     func() any { return new(apps.StatefulSet) },
	"apps/v1/Deployment":                      func() any { return new(apps.Deployment) },
	"batch/v1/CronJob":                        func() any { return new(batch.CronJob) },
	"networking.k8s.io/v1/NetworkPolicy":      func() any { return new(networking.NetworkPolicy) },
	"policy/v1/PodDisruptionBudget":           func() any { return new(disruption.PodDisruptionBudget) },
	"monitoring.coreos.com/v1/ServiceMonitor": func() any { return new(monitoring.ServiceMonitor) },
	"monitoring.coreos.com/v1/PrometheusRule": func() any { return new(monitoring.PrometheusRule) },
}

// render returns the objects of a folder, by kind and name.
func render(t *testing.T, name string) map[string]any {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(folder, name))
	if err != nil {
		t.Fatal(err)
	}
	objects := make(map[string]any)
	for _, r := range built.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		made := kinds[r.GetApiVersion()+"/"+r.GetKind()]
		if made == nil {
			t.Fatalf("%s %s is of a kind that this test does not know", r.GetApiVersion(), r.GetKind())
		}
		object := made()
		if err := yaml.UnmarshalStrict(text, object); err != nil {
			t.Errorf("%s %s: %v", r.GetKind(), r.GetName(), err)
		}
		if ns := r.GetNamespace(); ns != "userhero-relay" && r.GetKind() != "Namespace" {
			t.Errorf("%s %s is in the namespace %q", r.GetKind(), r.GetName(), ns)
		}
		objects[r.GetKind()+" "+r.GetName()] = object
	}
	return objects
}

func TestManifests(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	for name, workload := range map[string]string{"badger": "StatefulSet relay", "jetstream": "Deployment relay"} {
		t.Run(name, func(t *testing.T) {
			objects := render(t, name)
			var pods []*core.PodTemplateSpec
			configs, selected := []string{}, 0
			for _, key := range slices.Sorted(maps.Keys(objects)) {
				switch o := objects[key].(type) {
				case *apps.StatefulSet:
					pods = append(pods, &o.Spec.Template)
				case *apps.Deployment:
					pods = append(pods, &o.Spec.Template)
				case *batch.CronJob:
					pods = append(pods, &o.Spec.JobTemplate.Spec.Template)
				case *core.ConfigMap:
					configs = append(configs, o.Name)
				case *core.Namespace:
					if o.Labels[api.EnforceLevelLabel] != string(api.LevelRestricted) {
						t.Error("the namespace does not enforce the level restricted")
					}
				}
			}
			if objects[workload] == nil || objects["PodDisruptionBudget relay"] == nil || objects["NetworkPolicy relay"] == nil || objects["ServiceMonitor relay"] == nil {
				t.Fatalf("it has %v", slices.Sorted(maps.Keys(objects)))
			}
			service := objects["Service relay"].(*core.Service)
			for _, pod := range pods {
				for _, check := range evaluator.EvaluatePod(restricted, &pod.ObjectMeta, &pod.Spec) {
					if !check.Allowed {
						t.Errorf("%s: %s", check.ForbiddenReason, check.ForbiddenDetail)
					}
				}
				matches := true
				for label, value := range service.Spec.Selector {
					matches = matches && pod.Labels[label] == value
				}
				if matches {
					selected++
				}
				for _, c := range pod.Spec.Containers {
					if c.Resources.Limits.Memory().Value() < 128<<20 || c.Image == "userhero-relay" || !strings.HasPrefix(c.Image, "registry.example.com/") {
						t.Errorf("%s has the image %s and %s of memory", c.Name, c.Image, c.Resources.Limits.Memory())
					}
					if matches && (c.LivenessProbe.HTTPGet.Path != "/livez" || c.ReadinessProbe.HTTPGet.Path != "/healthz") {
						t.Error("the probes ask for other paths than the Caddyfile serves")
					}
				}
				for _, v := range pod.Spec.Volumes {
					if v.ConfigMap != nil && !slices.Contains(configs, v.ConfigMap.Name) {
						t.Errorf("it mounts the ConfigMap %s; there are %v", v.ConfigMap.Name, configs)
					}
				}
			}
			if selected != 1 {
				t.Errorf("the service selects the pods of %d workloads", selected)
			}
		})
	}
}

// TestPrometheusRuleIsRulesYML: the alerts of the operator are those of the file.
func TestPrometheusRuleIsRulesYML(t *testing.T) {
	text, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	const rule = folder + "/base/prometheusrule.yaml"
	if *update {
		_, groups, _ := strings.Cut(string(text), "\ngroups:\n")
		made := "# Made from examples/monitoring/rules.yml: go test ./... -update in e2e/manifests.\n" +
			"apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: relay\nspec:\n  groups:\n"
		for line := range strings.Lines(groups) {
			if strings.TrimSpace(line) != "" {
				line = "  " + line
			}
			made += line
		}
		if err := os.WriteFile(rule, []byte(made), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	held, err := os.ReadFile(rule)
	if err != nil {
		t.Fatal(err)
	}
	var file map[string]any
	var object struct {
		Spec map[string]any `json:"spec"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(held, &object); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(file, object.Spec) {
		t.Error("base/prometheusrule.yaml differs from examples/monitoring/rules.yml; write it anew: go test ./... -update in e2e/manifests")
	}
}

// TestStrict is a control: a member that Kubernetes does not have is seen.
func TestStrict(t *testing.T) {
	var s apps.StatefulSet
	if err := yaml.UnmarshalStrict([]byte("spec: {replica: 1}"), &s); err == nil {
		t.Error("a wrong member passes")
	}
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var pod core.PodSpec
	if err := json.Unmarshal([]byte(`{"containers":[{"name":"c"}]}`), &pod); err != nil {
		t.Fatal(err)
	}
	if policy.AggregateCheckResults(evaluator.EvaluatePod(api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}, new(core.PodTemplateSpec).ObjectMeta.DeepCopy(), &pod)).Allowed {
		t.Error("a pod that is not restricted passes")
	}
}
