// The manifests of deploy/k8s as a cluster's API server would read them: rendered
// by kustomize's own library, decoded into the types of Kubernetes and KEDA.
// Strictly: a field that a type does not have is an error, where a cluster would
// ignore it.
package k8s

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"penstock.dev/k8s/keda"
)

const (
	root     = "../.."
	overlays = "overlays/"
)

// What one overlay makes, by kind.
type cluster struct {
	namespaces   []*corev1.Namespace
	configMaps   []*corev1.ConfigMap
	secrets      []*corev1.Secret
	services     []*corev1.Service
	deployments  []*appsv1.Deployment
	statefulSets []*appsv1.StatefulSet
	budgets      []*policyv1.PodDisruptionBudget
	policies     []*networkingv1.NetworkPolicy
	autoscalers  []*autoscalingv2.HorizontalPodAutoscaler
	scaled       []*keda.ScaledObject
	logins       []*keda.TriggerAuthentication

	all []metav1.Object
}

// The pods of a Deployment or a StatefulSet.
type workload struct {
	name     string
	selector *metav1.LabelSelector
	replicas *int32
	template *corev1.PodTemplateSpec
}

func (c *cluster) workloads() []workload {
	var all []workload
	for _, d := range c.deployments {
		all = append(all, workload{d.Name, d.Spec.Selector, d.Spec.Replicas, &d.Spec.Template})
	}
	for _, s := range c.statefulSets {
		all = append(all, workload{s.Name, s.Spec.Selector, s.Spec.Replicas, &s.Spec.Template})
	}
	return all
}

func (c *cluster) workload(t testing.TB, name string) workload {
	t.Helper()
	for _, w := range c.workloads() {
		if w.name == name {
			return w
		}
	}
	t.Fatalf("there is no %s", name)
	return workload{}
}

// Adds an object, which must be of a kind that is known here and have no field
// that its type has not.
func (c *cluster) add(kind string, text []byte) error {
	switch kind {
	case "v1/Namespace":
		return decode(text, &c.namespaces, &c.all)
	case "v1/ConfigMap":
		return decode(text, &c.configMaps, &c.all)
	case "v1/Secret":
		return decode(text, &c.secrets, &c.all)
	case "v1/Service":
		return decode(text, &c.services, &c.all)
	case "apps/v1/Deployment":
		return decode(text, &c.deployments, &c.all)
	case "apps/v1/StatefulSet":
		return decode(text, &c.statefulSets, &c.all)
	case "policy/v1/PodDisruptionBudget":
		return decode(text, &c.budgets, &c.all)
	case "networking.k8s.io/v1/NetworkPolicy":
		return decode(text, &c.policies, &c.all)
	case "autoscaling/v2/HorizontalPodAutoscaler":
		return decode(text, &c.autoscalers, &c.all)
	case "keda.sh/v1alpha1/ScaledObject":
		return decode(text, &c.scaled, &c.all)
	case "keda.sh/v1alpha1/TriggerAuthentication":
		return decode(text, &c.logins, &c.all)
	}
	return fmt.Errorf("%s: the test does not know this kind", kind)
}

func decode[T any, P interface {
	*T
	metav1.Object
}](text []byte, list *[]P, all *[]metav1.Object) error {
	object := P(new(T))
	strict, err := json.UnmarshalStrict(text, object)
	for _, each := range append(strict, err) {
		if each != nil {
			return fmt.Errorf("%T %s: %w", object, object.GetName(), each)
		}
	}
	*list = append(*list, object)
	*all = append(*all, object)
	return nil
}

func render(dir string) (*cluster, error) {
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).
		Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, err
	}
	c := new(cluster)
	for _, resource := range resources.Resources() {
		text, err := resource.MarshalJSON()
		if err != nil {
			return nil, err
		}
		kind := resource.GetApiVersion() + "/" + resource.GetKind()
		if err := c.add(kind, text); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// A copy of deploy/k8s that is complete: with the secrets that a user would fill
// in.
func copyManifests(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(root, "deploy/k8s"))); err != nil {
		t.Fatal(err)
	}
	production := filepath.Join(dir, overlays, "production")
	example, err := os.ReadFile(filepath.Join(production, "secret.env.example"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(production, "secret.env"), example, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func mustRender(t testing.TB, overlay string) *cluster {
	t.Helper()
	c, err := render(filepath.Join(copyManifests(t), overlays, overlay))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Replaces text in a file of `dir`, where it must occur.
func edit(t testing.TB, dir, file, old, new string) {
	t.Helper()
	path := filepath.Join(dir, file)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		t.Fatalf("%s does not contain %q", file, old)
	}
	changed := strings.Replace(string(text), old, new, 1)
	if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
}
