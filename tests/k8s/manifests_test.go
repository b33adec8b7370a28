// The overlays are whole, and the check of that finds what it should.
package k8s

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestManifests(t *testing.T) {
	for _, overlay := range []string{"dev", "production"} {
		t.Run(overlay, func(t *testing.T) {
			for _, problem := range problems(mustRender(t, overlay)) {
				t.Error(problem)
			}
		})
	}
}

// What issue and documents promise of the overlays, kind by kind.
func TestManifestsHold(t *testing.T) {
	production := mustRender(t, "production")
	gateway := production.workload(t, "penstock-gateway").template.Spec.Containers[0]
	if gateway.LivenessProbe.GRPC.Service != nil && *gateway.LivenessProbe.GRPC.Service != "" {
		t.Error("the gateway's liveness asks for more than its life")
	}
	if *gateway.ReadinessProbe.GRPC.Service != "penstock.v1.GatewayService" {
		t.Error("the gateway's readiness does not ask for RabbitMQ and Redis")
	}
	worker := production.workload(t, "penstock-worker").template.Spec.Containers[0]
	if worker.LivenessProbe.HTTPGet.Path != "/livez" || worker.ReadinessProbe.HTTPGet.Path != "/readyz" {
		t.Error("the worker's probes ask for other paths than it has")
	}
	headless := 0
	for _, service := range production.services {
		if service.Spec.ClusterIP == "None" {
			headless++
		}
	}
	if headless != 1 || len(production.budgets) != 1 || len(production.policies) != 2 ||
		len(production.autoscalers) != 1 || len(production.scaled) != 1 {
		t.Error("something is missing")
	}
	// Rendered as it lies here, without a user's secret.env, it is refused.
	if _, err := os.Stat(filepath.Join(root, "deploy/k8s/overlays/production/secret.env")); err == nil {
		t.Error("secret.env lies in the tree")
	}
	bare := copyManifests(t)
	if err := os.Remove(filepath.Join(bare, "overlays/production/secret.env")); err != nil {
		t.Fatal(err)
	}
	if _, err := render(filepath.Join(bare, "overlays/production")); err == nil {
		t.Error("production is rendered without secrets")
	}
	base, err := render(filepath.Join(copyManifests(t), "base"))
	if err != nil {
		t.Fatal(err)
	}
	if *base.workload(t, "penstock-gateway").replicas != 2 {
		t.Error("the gateway is alone")
	}
	ours, _ := os.ReadFile(filepath.Join(root, "deploy/rabbitmq.conf"))
	theirs, _ := os.ReadFile(filepath.Join(root, "deploy/k8s/overlays/dev/rabbitmq.conf"))
	if string(ours) != string(theirs) || !strings.Contains(string(ours), "\nconsumer_timeout = ") {
		t.Error("deploy/k8s/overlays/dev/rabbitmq.conf is not deploy/rabbitmq.conf")
	}
}

// Each mistake is found, and says what it is.
func TestMistakesInManifestsAreFound(t *testing.T) {
	const (
		gateway = "base/gateway.yaml"
		worker  = "base/worker.yaml"
		network = "base/network.yaml"
		scaling = "overlays/production/scaling.yaml"
		names   = "overlays/production/names.yaml"
	)
	cases := []struct{ file, old, new, found string }{
		// Fields that are not in a type.
		{gateway, "readinessProbe:", "readinesProbe:", `unknown field "spec.template.spec.containers[0].readinesProbe"`},
		{worker, "terminationGracePeriodSeconds:", "terminationGracePeriod:", `unknown field "spec.template.spec.terminationGracePeriod"`},
		{worker, "periodSeconds: 10", "periodseconds: 10", `unknown field "spec.template.spec.containers[0].livenessProbe.periodseconds"`},
		{gateway, "maxUnavailable: 1\n", "maxUnavailble: 1\n", `unknown field "spec.maxUnavailble"`},
		{network, "policyTypes: [Ingress, Egress]", "policytypes: [Ingress, Egress]", `unknown field "spec.policytypes"`},
		{scaling, "averageUtilization: 70", "averageUtilisation: 70", `unknown field "spec.metrics[0].resource.target.averageUtilisation"`},
		{scaling, "pollingInterval:", "pollInterval:", `unknown field "spec.pollInterval"`},
		{scaling, "secretTargetRef:", "secretTargetref:", `unknown field "spec.secretTargetref"`},
		{scaling, "excludeUnacknowledged:", "excludeUnacked:", "unknown key excludeUnacked"},
		{gateway, "kind: PodDisruptionBudget", "kind: PodDisruptionBudgets", "does not know this kind"},
		{gateway, "containerPort: 50051", "containerPort: grpc", "cannot unmarshal"},
		// Names that lead nowhere.
		{gateway, "targetPort: grpc", "targetPort: rpc", "pods of penstock-gateway have no port rpc"},
		{gateway, "name: grpc\n              containerPort", "name: rpc\n              containerPort", "have no port grpc"},
		{gateway, "port: 50051\n            periodSeconds", "port: 50052\n            periodSeconds", "there is no port 50052"},
		{worker, "name: health", "name: probes", "there is no port health"},
		{worker, "key: broker", "key: brokr", "there is no brokr in a Secret penstock"},
		{worker, "--config=/etc/penstock/config.yml", "--config=/etc/penstock/config.yaml", "nothing mounts /etc/penstock/config.yaml"},
		{worker, "configMap:\n            name: penstock", "configMap:\n            name: penstok", "there is no ConfigMap penstok"},
		{"base/kustomization.yaml", "- config.yml", "- other.yml=config.yml", "nothing mounts /etc/penstock/config.yml"},
		{names, "path: spec/secretTargetRef/name", "path: spec/secretTargetRef/nam", "there is no management in a Secret penstock"},
		{"overlays/production/secret.env", "management=", "manage=", "there is no management in a Secret"},
		{scaling, "name: penstock-gateway\n  minReplicas", "name: gateway\n  minReplicas", "there is no Deployment gateway"},
		{scaling, "name: penstock-worker\n  minReplicaCount", "name: penstock-gateway\n  minReplicaCount", "scale the same"},
		{scaling, "queueName: penstock_tasks", "queueName: penstock", "counts the queue penstock"},
		{scaling, "authenticationRef:\n        name: penstock-rabbitmq", "authenticationRef:\n        name: rabbitmq", "has no login"},
		{"overlays/production/kustomization.yaml", "  - namespace.yaml\n", "", "which nothing makes"},
		// Selectors.
		{worker, "labels:\n        app.kubernetes.io/name: penstock\n        app.kubernetes.io/component: worker", "labels:\n        app.kubernetes.io/name: penstock\n        app.kubernetes.io/component: works", "the selector of penstock-worker takes the pods of 0 workloads"},
		{network, "component: worker\n  policyTypes", "component: work\n  policyTypes", "the network policy penstock-worker selects the pods of 0"},
		{network, "port: grpc", "port: rpc", "have no port rpc"},
		// Times.
		{worker, "--drain_deadline=240s", "--drain_deadline=270s", "is shorter than"},
		{worker, "--drain_deadline=240s", "--prefetch=4", "has no --drain_deadline"},
		{worker, `["sleep", "2"]`, `["sleep", "60"]`, "is shorter than"},
		{worker, `["sleep", "2"]`, `["kill", "1"]`, "is shorter than"},
		{gateway, "terminationGracePeriodSeconds: 60", "terminationGracePeriodSeconds: 30", "is shorter than"},
		{gateway, "max_connection_age_grace=90s", "max_connection_age_grace=30s", "cut waits off"},
		// Rights and resources.
		{worker, "runAsNonRoot: true", "runAsNonRoot: false", "may run as root"},
		{gateway, "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "may write to its image"},
		{gateway, `drop: ["ALL"]`, `drop: ["NET_RAW"]`, "keeps capabilities"},
		{worker, "automountServiceAccountToken: false", "automountServiceAccountToken: true", "gets a token"},
		{worker, "cpu: 500m", `cpu: "0"`, "says not what it needs"},
		// The queue, and who counts.
		{"base/config.yml", "x-queue-type: quorum", "x-queue-type: classic", "is no quorum queue"},
		{scaling, "protocol: http", "protocol: amqp", "what is unacked is not counted"},
		{"overlays/production/kustomization.yaml", "op: remove\n        path: /spec/replicas", "op: replace\n        path: /spec/replicas\n        value: 3", "has replicas of its own"},
	}
	for _, c := range cases {
		t.Run(c.found, func(t *testing.T) {
			dir := copyManifests(t)
			edit(t, dir, c.file, c.old, c.new)
			var found []string
			if cluster, err := render(filepath.Join(dir, "overlays/production")); err != nil {
				found = []string{err.Error()}
			} else {
				found = problems(cluster)
			}
			if !strings.Contains(strings.Join(found, "\n"), c.found) {
				t.Errorf("%s with %q: found %q", c.file, c.new, found)
			}
		})
	}
}
