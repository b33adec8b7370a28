// What is wrong with an overlay: names that do not exist, selectors that match
// nothing, a grace that is shorter than the drain, rights that nobody needs.
package k8s

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"penstock.dev/k8s/keda"
)

const (
	// What handlers have after the drain's deadline to notice that it is over:
	// WorkerOptions::drain_grace.
	drainGrace = time.Second
	// A wait of a client's, at most: gateway.proto.
	longestWait = 60 * time.Second
	// For a slow machine, between the end of the drain and SIGKILL.
	room = 10 * time.Second
)

type report []string

func (r *report) add(format string, args ...any) {
	*r = append(*r, fmt.Sprintf(format, args...))
}

func problems(c *cluster) []string {
	r := new(report)
	c.checkNamespaces(r)
	c.checkSelectors(r)
	for _, w := range c.workloads() {
		c.checkPods(r, w)
	}
	c.checkScaling(r)
	return *r
}

func (c *cluster) checkNamespaces(r *report) {
	seen := map[string]bool{}
	for _, object := range c.all {
		name := fmt.Sprintf("%T %s", object, object.GetName())
		if seen[name] {
			r.add("%s is there twice", name)
		}
		seen[name] = true
		if _, is := object.(*corev1.Namespace); is {
			continue
		}
		if !slices.ContainsFunc(c.namespaces, func(n *corev1.Namespace) bool {
			return n.Name == object.GetNamespace()
		}) {
			r.add("%s is in the namespace %q, which nothing makes", name, object.GetNamespace())
		}
	}
}

// The workloads that a selector takes.
func (c *cluster) selected(selector map[string]string) []workload {
	var taken []workload
	for _, w := range c.workloads() {
		if labels.SelectorFromSet(selector).Matches(labels.Set(w.template.Labels)) {
			taken = append(taken, w)
		}
	}
	return taken
}

func (c *cluster) checkSelectors(r *report) {
	for _, w := range c.workloads() {
		if taken := c.selected(w.selector.MatchLabels); len(taken) != 1 || taken[0].name != w.name {
			r.add("the selector of %s takes the pods of %d workloads, its own or not", w.name, len(taken))
		}
	}
	for _, s := range c.services {
		taken := c.selected(s.Spec.Selector)
		if len(taken) != 1 {
			r.add("the service %s selects the pods of %d workloads", s.Name, len(taken))
		}
		for _, port := range s.Spec.Ports {
			for _, w := range taken {
				if !hasPort(w.template, port.TargetPort) {
					r.add("the service %s: pods of %s have no port %s", s.Name, w.name, port.TargetPort.String())
				}
			}
		}
	}
	for _, b := range c.budgets {
		taken := c.selected(b.Spec.Selector.MatchLabels)
		if len(taken) != 1 {
			r.add("the budget %s selects the pods of %d workloads", b.Name, len(taken))
		}
		for _, w := range taken {
			if w.replicas != nil && b.Spec.MaxUnavailable.IntValue() >= int(*w.replicas) {
				r.add("the budget %s lets all pods of %s go", b.Name, w.name)
			}
		}
	}
	for _, p := range c.policies {
		taken := c.selected(p.Spec.PodSelector.MatchLabels)
		if len(taken) != 1 {
			r.add("the network policy %s selects the pods of %d workloads", p.Name, len(taken))
		}
		for _, rule := range p.Spec.Ingress {
			for _, port := range rule.Ports {
				for _, w := range taken {
					if !hasPort(w.template, *port.Port) {
						r.add("the network policy %s: pods of %s have no port %s", p.Name, w.name, port.Port.String())
					}
				}
			}
		}
	}
}

func hasPort(template *corev1.PodTemplateSpec, wanted intstr.IntOrString) bool {
	for _, container := range template.Spec.Containers {
		for _, port := range container.Ports {
			if port.Name == wanted.StrVal && wanted.Type == intstr.String ||
				port.ContainerPort == wanted.IntVal && wanted.Type == intstr.Int {
				return true
			}
		}
	}
	return false
}

func (c *cluster) configMap(name string) (map[string]string, bool) {
	for _, m := range c.configMaps {
		if m.Name == name {
			return m.Data, true
		}
	}
	return nil, false
}

func (c *cluster) secret(name string) (map[string]string, bool) {
	for _, s := range c.secrets {
		if s.Name == name {
			texts := maps.Clone(s.StringData)
			if texts == nil {
				texts = map[string]string{}
			}
			for key, value := range s.Data {
				texts[key] = string(value)
			}
			return texts, true
		}
	}
	return nil, false
}

func (c *cluster) checkPods(r *report, w workload) {
	spec := &w.template.Spec
	if spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken {
		r.add("%s: gets a token of the cluster's API", w.name)
	}
	if s := spec.SecurityContext; s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot ||
		s.RunAsUser == nil || *s.RunAsUser == 0 ||
		s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		r.add("%s: may run as root, or without the default seccomp profile", w.name)
	}
	if t := spec.TopologySpreadConstraints; len(t) > 0 {
		if taken := c.selected(t[0].LabelSelector.MatchLabels); len(taken) != 1 || taken[0].name != w.name {
			r.add("%s: spreads other pods than its own", w.name)
		}
	}
	mounts := c.checkVolumes(r, w)
	for i := range spec.Containers {
		c.checkContainer(r, w, &spec.Containers[i], mounts)
	}
}

// The files that each volume of a ConfigMap brings.
func (c *cluster) checkVolumes(r *report, w workload) map[string][]string {
	files := map[string][]string{}
	for _, volume := range w.template.Spec.Volumes {
		if volume.ConfigMap == nil {
			continue
		}
		data, found := c.configMap(volume.ConfigMap.Name)
		if !found {
			r.add("%s: there is no ConfigMap %s", w.name, volume.ConfigMap.Name)
		}
		files[volume.Name] = slices.Collect(maps.Keys(data))
	}
	return files
}

func (c *cluster) checkContainer(r *report, w workload, container *corev1.Container, volumes map[string][]string) {
	name := w.name + "/" + container.Name
	s := container.SecurityContext
	if s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation ||
		s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		r.add("%s: keeps capabilities, or may get more", name)
	}
	// RabbitMQ's image writes below /etc and /var/lib.
	if container.Name != "rabbitmq" &&
		(s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem) {
		r.add("%s: may write to its image", name)
	}
	requests := container.Resources.Requests
	if requests.Cpu().IsZero() || requests.Memory().IsZero() || container.Resources.Limits.Memory().IsZero() {
		r.add("%s: says not what it needs", name)
	}
	for _, variable := range container.Env {
		if variable.ValueFrom == nil {
			continue
		}
		if ref := variable.ValueFrom.SecretKeyRef; ref != nil {
			if keys, found := c.secret(ref.Name); !found || keys[ref.Key] == "" {
				r.add("%s: %s: there is no %s in a Secret %s", name, variable.Name, ref.Key, ref.Name)
			}
		}
		if ref := variable.ValueFrom.ConfigMapKeyRef; ref != nil {
			if keys, found := c.configMap(ref.Name); !found || keys[ref.Key] == "" {
				r.add("%s: %s: there is no %s in a ConfigMap %s", name, variable.Name, ref.Key, ref.Name)
			}
		}
	}
	for _, mount := range container.VolumeMounts {
		files, isConfig := volumes[mount.Name]
		if isConfig && mount.SubPath != "" && !slices.Contains(files, mount.SubPath) {
			r.add("%s: there is no file %s to mount", name, mount.SubPath)
		}
	}
	if file := flag(container, "config"); file != "" {
		found := slices.ContainsFunc(container.VolumeMounts, func(m corev1.VolumeMount) bool {
			return m.MountPath == path.Dir(file) && slices.Contains(volumes[m.Name], path.Base(file))
		})
		if !found {
			r.add("%s: nothing mounts %s", name, file)
		}
	}
	for what, probe := range map[string]*corev1.Probe{
		"liveness": container.LivenessProbe, "readiness": container.ReadinessProbe,
		"startup": container.StartupProbe,
	} {
		checkProbe(r, name+": "+what, w.template, probe)
	}
	if container.ReadinessProbe == nil {
		r.add("%s: nothing says when it is ready", name)
	}
	checkGrace(r, name, w.template, container)
}

func checkProbe(r *report, what string, template *corev1.PodTemplateSpec, probe *corev1.Probe) {
	if probe == nil {
		return
	}
	if probe.HTTPGet != nil && !hasPort(template, probe.HTTPGet.Port) {
		r.add("%s: there is no port %s", what, probe.HTTPGet.Port.String())
	}
	if probe.GRPC != nil && !hasPort(template, intstr.FromInt32(probe.GRPC.Port)) {
		r.add("%s: there is no port %d", what, probe.GRPC.Port)
	}
	if probe.HTTPGet == nil && probe.GRPC == nil && probe.Exec == nil {
		r.add("%s: asks nothing", what)
	}
}

// SIGKILL must come after the drain.
func checkGrace(r *report, name string, template *corev1.PodTemplateSpec, container *corev1.Container) {
	drain, err := time.ParseDuration(flag(container, "drain_deadline"))
	if err != nil {
		if strings.HasPrefix(container.Image, "penstock") || strings.Contains(container.Image, "/penstock-") {
			r.add("%s: has no --drain_deadline", name)
		}
		return
	}
	needed := preStop(container) + drain + drainGrace + room
	grace := time.Duration(*template.Spec.TerminationGracePeriodSeconds) * time.Second
	if grace < needed {
		r.add("%s: the grace of %v is shorter than the %v that preStop and drain may take", name, grace, needed)
	}
	if age := flag(container, "max_connection_age_grace"); age != "" {
		if d, err := time.ParseDuration(age); err != nil || d <= longestWait {
			r.add("%s: connections that age cut waits off", name)
		}
	}
}

// How long preStop takes, which is a sleep.
func preStop(container *corev1.Container) time.Duration {
	if container.Lifecycle == nil || container.Lifecycle.PreStop == nil {
		return 0
	}
	command := container.Lifecycle.PreStop.Exec.Command
	seconds, err := strconv.Atoi(command[len(command)-1])
	if err != nil || len(command) != 2 || command[0] != "sleep" {
		return time.Hour // is not known
	}
	return time.Duration(seconds) * time.Second
}

// The value of --name=value among the arguments.
func flag(container *corev1.Container, name string) string {
	for _, arg := range container.Args {
		if value, is := strings.CutPrefix(arg, "--"+name+"="); is {
			return value
		}
	}
	return ""
}

// What the ConfigMap of gateway and worker says.
type config struct {
	DefaultQueue string `json:"default_queue"`
	AMQP         struct {
		BindingKey       string         `json:"binding_key"`
		QueueDeclareArgs map[string]any `json:"queue_declare_args"`
	} `json:"amqp"`
}

func (c *cluster) config(r *report) config {
	var parsed config
	for _, m := range c.configMaps {
		if text, has := m.Data["config.yml"]; has {
			if err := yaml.Unmarshal([]byte(text), &parsed); err != nil {
				r.add("config.yml: %v", err)
			}
		}
	}
	return parsed
}

func (c *cluster) checkScaling(r *report) {
	config := c.config(r)
	if config.AMQP.QueueDeclareArgs["x-queue-type"] != "quorum" {
		r.add("config.yml: the queue is no quorum queue")
	}
	if config.DefaultQueue != config.AMQP.BindingKey {
		r.add("config.yml: default_queue and binding_key differ")
	}
	scaled := map[string]string{}
	target := func(by metav1.Object, kind, name string) {
		what := fmt.Sprintf("%T %s", by, by.GetName())
		if other, taken := scaled[name]; taken {
			r.add("%s and %s scale the same: %s", what, other, name)
		}
		scaled[name] = what
		for _, d := range c.deployments {
			if kind == "Deployment" && d.Name == name {
				if d.Spec.Replicas != nil {
					r.add("%s: %s has replicas of its own, to which every apply goes back", what, name)
				}
				return
			}
		}
		r.add("%s: there is no %s %s", what, kind, name)
	}
	for _, a := range c.autoscalers {
		target(a, a.Spec.ScaleTargetRef.Kind, a.Spec.ScaleTargetRef.Name)
		if a.Spec.MinReplicas == nil || *a.Spec.MinReplicas < 2 {
			r.add("%s: goes below two", a.Name)
		}
	}
	for _, s := range c.scaled {
		target(s, s.Spec.ScaleTargetRef.Kind, s.Spec.ScaleTargetRef.Name)
		for _, trigger := range s.Spec.Triggers {
			// KEDA reads it from a map: no type knows its keys.
			for key := range trigger.Metadata {
				if !slices.Contains([]string{"protocol", "queueName", "mode", "excludeUnacknowledged", "value"}, key) {
					r.add("%s: the trigger has an unknown key %s", s.Name, key)
				}
			}
			m := trigger.Metadata
			if m["protocol"] != "http" || m["mode"] != "QueueLength" || m["excludeUnacknowledged"] != "false" {
				r.add("%s: what is unacked is not counted", s.Name)
			}
			if m["queueName"] != config.DefaultQueue {
				r.add("%s: counts the queue %s, where tasks wait in %s", s.Name, m["queueName"], config.DefaultQueue)
			}
			if trigger.AuthenticationRef == nil || !slices.ContainsFunc(c.logins, func(l *keda.TriggerAuthentication) bool {
				return l.Name == trigger.AuthenticationRef.Name
			}) {
				r.add("%s: has no login for RabbitMQ", s.Name)
			}
		}
	}
	for _, l := range c.logins {
		for _, ref := range l.Spec.SecretTargetRef {
			if keys, found := c.secret(ref.Name); !found || keys[ref.Key] == "" {
				r.add("%s: there is no %s in a Secret %s", l.Name, ref.Key, ref.Name)
			}
		}
	}
}
