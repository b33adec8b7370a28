// What manifests and compose file tell a node to run, run here: the probes, the
// health checks, the end of a pod. With the binaries of PENSTOCK_BIN_DIR, and a
// RabbitMQ and a Redis of the test's own.
package k8s

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const patience = 60 * time.Second

// ---- the servers

type servers struct {
	dir, amqp, redis string
}

var atEnd []func() // what ends the servers, if a test has started them

var started = sync.OnceValues(func() (*servers, error) {
	dir, err := os.MkdirTemp("", "penstock-k8s-")
	if err != nil {
		return nil, err
	}
	atEnd = append(atEnd, func() {
		_ = exec.Command(filepath.Join(root, "deploy/servers"), "stop", dir).Run()
		_ = os.RemoveAll(dir)
	})
	output, err := exec.Command(filepath.Join(root, "deploy/servers"), "start", dir).CombinedOutput()
	s := &servers{dir: dir}
	for _, line := range strings.Split(string(output), "\n") {
		name, value, _ := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		switch name {
		case "PENSTOCK_TEST_AMQP_URL":
			s.amqp = value
		case "PENSTOCK_TEST_REDIS_URL":
			s.redis = value
		}
	}
	if err != nil || s.amqp == "" || s.redis == "" {
		return s, fmt.Errorf("the servers did not start: %v\n%s", err, output)
	}
	return s, nil
})

func TestMain(m *testing.M) {
	status := m.Run()
	for _, end := range atEnd {
		end()
	}
	os.Exit(status)
}

func startServers(t testing.TB) *servers {
	t.Helper()
	s, err := started()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ---- containers

// A process as a container's manifest describes it.
type container struct {
	*corev1.Container
	ports map[int32]int // of the manifest -> here
	cmd   *exec.Cmd
	ended chan struct{}
	log   lockedBuffer
}

type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(text []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(text)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func binary(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("PENSTOCK_BIN_DIR")
	if dir == "" {
		t.Fatal("PENSTOCK_BIN_DIR is not set: use tests/run")
	}
	return filepath.Join(dir, name)
}

func freePort(t testing.TB) int {
	t.Helper()
	output, err := exec.Command(filepath.Join(root, "deploy/free-port")).Output()
	if err != nil {
		t.Fatal(err)
	}
	var port int
	if _, err := fmt.Sscan(string(output), &port); err != nil {
		t.Fatal(err)
	}
	return port
}

// Starts the container of the dev overlay's workload: its arguments, its
// environment, its ConfigMap. What differs are ports, the place of the files, and
// where RabbitMQ and Redis are.
func start(t testing.TB, c *cluster, name string, secrets map[string]string) *container {
	t.Helper()
	template := c.workload(t, name).template
	started := &container{
		Container: &template.Spec.Containers[0],
		ports:     map[int32]int{},
		ended:     make(chan struct{}),
	}
	args := strings.Join(started.Args, "\n")
	for _, port := range started.Ports {
		here := freePort(t)
		started.ports[port.ContainerPort] = here
		args = strings.ReplaceAll(args, fmt.Sprintf("0.0.0.0:%d", port.ContainerPort), fmt.Sprintf("127.0.0.1:%d", here))
	}
	for _, mount := range started.VolumeMounts {
		args = strings.ReplaceAll(args, mount.MountPath+"/", mountHere(t, c, template, mount)+"/")
	}
	words := strings.Split(args, "\n")
	started.cmd = exec.Command(binary(t, started.Image[:strings.Index(started.Image, ":")]), words...)
	for _, variable := range started.Env {
		value := variable.Value
		if variable.ValueFrom != nil {
			value = secrets[variable.ValueFrom.SecretKeyRef.Key]
		}
		started.cmd.Env = append(started.cmd.Env, variable.Name+"="+value)
	}
	started.cmd.Stdout, started.cmd.Stderr = &started.log, &started.log
	started.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := started.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = started.cmd.Wait()
		close(started.ended)
	}()
	t.Cleanup(func() {
		_ = started.cmd.Process.Kill()
		<-started.ended
		if t.Failed() {
			t.Logf("%s:\n%s", name, started.log.String())
		}
	})
	return started
}

func mountHere(t testing.TB, c *cluster, template *corev1.PodTemplateSpec, mount corev1.VolumeMount) string {
	t.Helper()
	dir := t.TempDir()
	for _, volume := range template.Spec.Volumes {
		if volume.Name != mount.Name {
			continue
		}
		files, _ := c.configMap(volume.ConfigMap.Name)
		for file, text := range files {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

func (s *servers) secrets() map[string]string {
	return map[string]string{"broker": s.amqp, "result-backend": s.redis}
}

func (c *container) address(port int32) string {
	return fmt.Sprintf("127.0.0.1:%d", c.ports[port])
}

func (c *container) awaitEnd(t testing.TB, limit time.Duration) int {
	t.Helper()
	select {
	case <-c.ended:
		return c.cmd.ProcessState.ExitCode()
	case <-time.After(limit):
		t.Fatalf("%s has not ended within %v", c.Name, limit)
		return -1
	}
}

// One try of a probe, as a node makes it.
func (c *container) probe(t testing.TB, probe *corev1.Probe) (bool, string) {
	t.Helper()
	limit := time.Duration(probe.TimeoutSeconds) * time.Second
	if probe.GRPC != nil {
		service := ""
		if probe.GRPC.Service != nil {
			service = *probe.GRPC.Service
		}
		output, err := exec.Command(filepath.Join(root, ".tools/bin/grpcurl"), "-plaintext",
			"-max-time", fmt.Sprint(limit.Seconds()), "-d", fmt.Sprintf(`{"service":%q}`, service),
			c.address(probe.GRPC.Port), "grpc.health.v1.Health/Check").CombinedOutput()
		return err == nil && strings.Contains(string(output), `"SERVING"`), string(output)
	}
	get := probe.HTTPGet
	var port int
	for _, each := range c.Ports {
		if each.Name == get.Port.StrVal {
			port = c.ports[each.ContainerPort]
		}
	}
	request, err := http.NewRequest("GET", fmt.Sprintf("http://127.0.0.1:%d%s", port, get.Path), nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("User-Agent", "kube-probe/1.34")
	request.Header.Set("Accept", "*/*")
	request.Close = true
	client := http.Client{Timeout: limit}
	response, err := client.Do(request)
	if err != nil {
		return false, err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return false, err.Error()
	}
	return response.StatusCode >= 200 && response.StatusCode < 400, strings.TrimSpace(string(body))
}

func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

func (c *container) awaitProbe(t testing.TB, probe *corev1.Probe) {
	t.Helper()
	await(t, c.Name+" is ready", func() bool {
		select {
		case <-c.ended:
			t.Fatalf("%s has ended", c.Name)
		default:
		}
		ok, _ := c.probe(t, probe)
		return ok
	})
}

// ---- tasks

func ctl(t testing.TB, gateway *container, words ...string) []string {
	t.Helper()
	words = append([]string{"--json", "--address=" + gateway.address(50051)}, words...)
	output, err := exec.Command(binary(t, "penstockctl"), words...).Output()
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) {
		t.Fatalf("penstockctl %v: %v %s", words, err, exit.Stderr)
	}
	return strings.Split(strings.TrimSpace(string(output)), "\n")
}

type state struct {
	State struct {
		Status     string `json:"status"`
		Attempt    int    `json:"attempt"`
		WorkerID   string `json:"worker_id"`
		StartTime  string `json:"start_time"`
		FinishTime string `json:"finish_time"`
	} `json:"state"`
}

func send(t testing.TB, gateway *container, name string) string {
	t.Helper()
	var sent struct {
		TaskID string `json:"task_id"`
	}
	if err := json.Unmarshal([]byte(ctl(t, gateway, "send", name)[0]), &sent); err != nil {
		t.Fatal(err)
	}
	return sent.TaskID
}

func stateOf(t testing.TB, gateway *container, id string) state {
	t.Helper()
	var s state
	if err := json.Unmarshal([]byte(ctl(t, gateway, "state", id)[0]), &s); err != nil {
		t.Fatal(err)
	}
	s.State.Status = strings.TrimPrefix(s.State.Status, "TASK_STATUS_")
	return s
}

// ---- the tests

func TestProbesOfPodsThatServe(t *testing.T) {
	c := mustRender(t, "dev")
	s := startServers(t)
	gateway := start(t, c, "penstock-gateway", s.secrets())
	worker := start(t, c, "penstock-worker", s.secrets())
	for _, pod := range []*container{gateway, worker} {
		pod.awaitProbe(t, pod.LivenessProbe)
		pod.awaitProbe(t, pod.ReadinessProbe)
	}
	sent := ctl(t, gateway, "send", "add", "1", "1", "--wait=30s")
	if !strings.Contains(sent[len(sent)-1], "SUCCESS") {
		t.Errorf("a task of the dev overlay: %v", sent)
	}
	// The queue is of the kind that the ConfigMap says, or RabbitMQ would have
	// refused one of the two; that it is a quorum queue it says itself.
	queues, err := s.rabbit("rabbitmqctl", "-q", "list_queues", "name", "type").CombinedOutput()
	if err != nil || !regexp.MustCompile(`(?m)^penstock_tasks\s.*quorum`).Match(queues) {
		t.Errorf("%v: %s", err, queues)
	}
}

// A pod that reaches no server lives, and is not ready, and says why.
func TestProbesOfPodsThatReachNothing(t *testing.T) {
	c := mustRender(t, "dev")
	nowhere := freePort(t)
	secrets := map[string]string{
		"broker":         fmt.Sprintf("amqp://127.0.0.1:%d/", nowhere),
		"result-backend": fmt.Sprintf("redis://127.0.0.1:%d/0", nowhere),
	}
	for _, name := range []string{"penstock-gateway", "penstock-worker"} {
		pod := start(t, c, name, secrets)
		pod.awaitProbe(t, pod.LivenessProbe)
		var said string
		await(t, name+" says why it is not ready", func() bool {
			ready, text := pod.probe(t, pod.ReadinessProbe)
			if ready {
				t.Fatalf("%s is ready: %s", name, text)
			}
			said = text
			return strings.Contains(text, "NOT_SERVING") || strings.Contains(text, "broker: ")
		})
		if alive, _ := pod.probe(t, pod.LivenessProbe); !alive {
			t.Errorf("%s is not alive, though only its servers are away (%s)", name, said)
		}
	}
}

// The health checks of deploy/compose.yaml, word for word, with other ports.
func TestHealthChecksOfCompose(t *testing.T) {
	project := mustLoadCompose(t)
	c := mustRender(t, "dev")
	s := startServers(t)
	gateway := start(t, c, "penstock-gateway", s.secrets())
	worker := start(t, c, "penstock-worker", s.secrets())
	check := func(service string) []string {
		test := project.Services[service].HealthCheck.Test
		if test[0] != "CMD" {
			t.Fatalf("%s: %v", service, test)
		}
		return slices.Clone(test[1:])
	}
	run := func(service string, pod *container, port int32) error {
		words := check(service)
		words[0] = binary(t, words[0])
		words[1] = strings.Replace(words[1], fmt.Sprintf(":%d", port), fmt.Sprintf(":%d", pod.ports[port]), 1)
		output, err := exec.Command(words[0], words[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%v: %w: %s", words, err, output)
		}
		return nil
	}
	for service, pod := range map[string]*container{"gateway": gateway, "worker": worker} {
		port := pod.Ports[0].ContainerPort
		await(t, service+" is healthy", func() bool { return run(service, pod, port) == nil })
		_ = pod.cmd.Process.Signal(syscall.SIGTERM)
		pod.awaitEnd(t, patience)
		if run(service, pod, port) == nil {
			t.Errorf("%s is healthy, and has ended", service)
		}
	}

	rabbit := check("rabbitmq")
	if output, err := s.rabbit(rabbit[0], rabbit[1:]...).CombinedOutput(); err != nil {
		t.Errorf("%v: %v: %s", rabbit, err, output)
	}
	at, err := url.Parse(s.redis)
	if err != nil {
		t.Fatal(err)
	}
	redis := check("redis")
	words := append([]string{"-h", at.Hostname(), "-p", at.Port()}, redis[1:]...)
	if output, err := exec.Command(redis[0], words...).CombinedOutput(); err != nil || string(output) != "PONG\n" {
		t.Errorf("%v: %v: %s", redis, err, output)
	}
	// The probes of the dev overlay's servers are the same commands.
	for service, kind := range map[string]string{"rabbitmq": "rabbitmq", "redis": "redis"} {
		probe := c.workload(t, kind).template.Spec.Containers[0].ReadinessProbe.Exec.Command
		if strings.Join(probe, " ") != strings.Join(check(service), " ") {
			t.Errorf("%s: the probe %v is not the health check", service, probe)
		}
	}
}

// A tool of RabbitMQ's, at the test's own server: what else it needs to know, the
// server's process knows.
func (s *servers) rabbit(name string, words ...string) *exec.Cmd {
	command := exec.Command(filepath.Join("/usr/lib/rabbitmq/bin", name), words...)
	var pid int
	text, err := os.ReadFile(filepath.Join(s.dir, "rabbitmq.process"))
	if err == nil {
		_, _ = fmt.Sscan(string(text), &pid)
		text, _ = os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	}
	for _, variable := range strings.Split(string(text), "\x00") {
		if strings.HasPrefix(variable, "RABBITMQ_NODENAME=") || strings.HasPrefix(variable, "ERL_EPMD_") ||
			strings.HasPrefix(variable, "HOME=") || strings.HasPrefix(variable, "PATH=") {
			command.Env = append(command.Env, variable)
		}
	}
	return command
}

// Ends a container as a node does: preStop, SIGTERM, and what is left of the grace.
// Gives what ended it and how long it took.
func (c *container) endAsANodeDoes(t testing.TB, grace time.Duration) (int, time.Duration) {
	t.Helper()
	begin := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	hook := c.Lifecycle.PreStop.Exec.Command
	if output, err := exec.CommandContext(ctx, hook[0], hook[1:]...).CombinedOutput(); err != nil {
		t.Errorf("preStop %v: %v: %s", hook, err, output)
	}
	select {
	case <-c.ended:
		t.Fatalf("%s ended before it was told to", c.Name)
	default:
	}
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	status := c.awaitEnd(t, grace-time.Since(begin))
	return status, time.Since(begin)
}

// A worker's pod is deleted with long tasks running: they end where they run, what
// it held besides goes to the other worker, and it is gone within its grace.
func TestADeletedWorkerLosesNothing(t *testing.T) {
	c := mustRender(t, "dev")
	s := startServers(t)
	gateway := start(t, c, "penstock-gateway", s.secrets())
	worker := start(t, c, "penstock-worker", s.secrets())
	gateway.awaitProbe(t, gateway.ReadinessProbe)
	worker.awaitProbe(t, worker.ReadinessProbe)

	// Of ten seconds each; four run at once, four wait in the worker.
	ids := map[string]bool{}
	for range 8 {
		ids[send(t, gateway, "long_running_task")] = false
	}
	running := func() int {
		count := 0
		for id := range ids {
			if stateOf(t, gateway, id).State.Status == "STARTED" {
				ids[id] = true
				count++
			}
		}
		return count
	}
	await(t, "four tasks run", func() bool { return running() == 4 })
	other := start(t, c, "penstock-worker", s.secrets())
	other.awaitProbe(t, other.ReadinessProbe)

	grace := time.Duration(*c.workload(t, "penstock-worker").template.Spec.TerminationGracePeriodSeconds) * time.Second
	draining := make(chan string, 1)
	go func() {
		for {
			select {
			case <-worker.ended:
				draining <- "ended"
				return
			case <-time.After(20 * time.Millisecond):
				if ready, text := worker.probe(t, worker.ReadinessProbe); !ready {
					draining <- text
					return
				}
			}
		}
	}()
	status, took := worker.endAsANodeDoes(t, grace)
	if status != 0 {
		t.Errorf("it ended with %d after %v", status, took)
	}
	if said := <-draining; !strings.HasPrefix(said, "draining") {
		t.Errorf("its readiness said %q while it drained", said)
	}
	deadWorker := ""
	for id, ranThere := range ids {
		var s state
		await(t, "task "+id+" ends", func() bool {
			s = stateOf(t, gateway, id)
			return s.State.Status == "SUCCESS" || s.State.Status == "FAILURE"
		})
		if s.State.Status != "SUCCESS" || s.State.Attempt > 1 {
			t.Errorf("task %s: %+v", id, s.State)
		}
		if ranThere {
			if deadWorker == "" {
				deadWorker = s.State.WorkerID
			}
			if s.State.WorkerID != deadWorker {
				t.Errorf("task %s ran at %s first and ended at %s", id, deadWorker, s.State.WorkerID)
			}
		}
	}
	for id, ranThere := range ids {
		if !ranThere && stateOf(t, gateway, id).State.WorkerID == deadWorker {
			t.Errorf("task %s was not given back", id)
		}
	}
	// Each began once: what was given back had not.
	begun := strings.Count(worker.log.String(), "long running task started") +
		strings.Count(other.log.String(), "long running task started")
	if begun != len(ids) {
		t.Errorf("%d runs of %d tasks", begun, len(ids))
	}
}

// A task that takes longer than the drain is told, and runs again elsewhere.
func TestATaskThatOutlivesTheDrainRunsElsewhere(t *testing.T) {
	dir := copyManifests(t)
	edit(t, dir, "overlays/dev/kustomization.yaml", "--drain_deadline=30s", "--drain_deadline=1s")
	c, err := render(filepath.Join(dir, "overlays/dev"))
	if err != nil {
		t.Fatal(err)
	}
	s := startServers(t)
	gateway := start(t, c, "penstock-gateway", s.secrets())
	worker := start(t, c, "penstock-worker", s.secrets())
	gateway.awaitProbe(t, gateway.ReadinessProbe)
	worker.awaitProbe(t, worker.ReadinessProbe)
	id := send(t, gateway, "long_running_task")
	await(t, "the task runs", func() bool { return stateOf(t, gateway, id).State.Status == "STARTED" })
	first := stateOf(t, gateway, id).State.WorkerID
	other := start(t, c, "penstock-worker", s.secrets())
	other.awaitProbe(t, other.ReadinessProbe)

	if status, took := worker.endAsANodeDoes(t, 30*time.Second); status != 0 || took > 15*time.Second {
		t.Errorf("it ended with %d after %v", status, took)
	}
	await(t, "the task ends", func() bool { return stateOf(t, gateway, id).State.Status == "SUCCESS" })
	if last := stateOf(t, gateway, id).State.WorkerID; last == first {
		t.Errorf("it ended at %s, where it began", last)
	}
}

// A gateway's pod that is deleted answers what it has taken on, and ends.
func TestADeletedGatewayAnswersWhatItHas(t *testing.T) {
	c := mustRender(t, "dev")
	s := startServers(t)
	gateway := start(t, c, "penstock-gateway", s.secrets())
	gateway.awaitProbe(t, gateway.ReadinessProbe)
	// Nobody runs it: a wait for it is open when the end comes.
	id := send(t, gateway, "nobody_knows_this")
	waited := make(chan string, 1)
	go func() {
		output, err := exec.Command(binary(t, "penstockctl"), "--json",
			"--address="+gateway.address(50051), "state", id, "--wait=50s").CombinedOutput()
		waited <- fmt.Sprintf("%v %s", err, output)
	}()
	grace := time.Duration(*c.workload(t, "penstock-gateway").template.Spec.TerminationGracePeriodSeconds) * time.Second
	status, took := gateway.endAsANodeDoes(t, grace)
	if status != 0 || took > 40*time.Second {
		t.Errorf("it ended with %d after %v", status, took)
	}
	if said := <-waited; !strings.HasPrefix(said, "<nil> ") || !strings.Contains(said, "PENDING") {
		t.Errorf("the wait ended with %s", said)
	}
}

// The gateway lets go of connections that are old.
func TestConnectionsEndWithTheirAge(t *testing.T) {
	command := exec.Command(binary(t, "penstock-gateway"), "--embedded",
		fmt.Sprintf("--listen=127.0.0.1:%d", freePort(t)), "--max_connection_age=1s", "--max_connection_age_grace=1s")
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	address := strings.TrimPrefix(command.Args[2], "--listen=")
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	}()
	var connection net.Conn
	await(t, "the gateway listens", func() bool {
		var err error
		connection, err = net.Dial("tcp", address)
		return err == nil
	})
	defer connection.Close()
	// HTTP/2's greeting and empty settings; it keeps the connection by answering
	// nothing else.
	if _, err := connection.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil {
		t.Fatal(err)
	}
	// Before keepalive would end it, after 40 s.
	_ = connection.SetReadDeadline(time.Now().Add(20 * time.Second))
	began := time.Now()
	if _, err := io.Copy(io.Discard, connection); err != nil {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}
