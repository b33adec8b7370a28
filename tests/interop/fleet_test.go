// A fleet: programs of Penstock and workers of Go at one queue of their own, in
// a Redis database of their own, that end with the test.
package interop

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
	amqp "github.com/rabbitmq/amqp091-go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
)

const (
	startLimit = 30 * time.Second  // of a gateway
	stopLimit  = 40 * time.Second  // of a program that was told to end
	testLimit  = 120 * time.Second // of anything that is waited for
)

// pair is a kind of broker and a kind of result backend.
type pair struct{ broker, backend string }

func (p pair) String() string { return p.broker + "-" + p.backend }

type fleetOptions struct {
	environment []string       // further settings of Penstock: "PENSTOCK_X=y"
	declareArgs map[string]any // of the queue, for Go
}

type fleet struct {
	t       *testing.T
	version string // of machinery
	options fleetOptions
	server  serverOptions // what Go is configured by
	dir     string
	redis   *redis.Pool // its database
	conn    *grpc.ClientConn
	runs    runs // by its Go workers
	started int
}

func serverURL(t *testing.T, kind string) string {
	name := map[string]string{
		"amqp":  "PENSTOCK_TEST_AMQP_URL",
		"redis": "PENSTOCK_TEST_REDIS_URL",
	}[kind]
	url := os.Getenv(name)
	if url == "" {
		t.Fatalf("%s is not set: see README.md", name)
	}
	return strings.TrimSuffix(url, "/")
}

// newFleet claims names; nothing runs yet.
func newFleet(t *testing.T, p pair, version string, options fleetOptions) *fleet {
	name := fmt.Sprintf("interop_%08x", rand.Uint32())
	f := &fleet{t: t, version: version, options: options, dir: t.TempDir(),
		runs: runs{byID: map[string]int{}}}
	database := f.claimDatabase()
	url := func(kind string) string {
		if kind == "redis" {
			return fmt.Sprintf("%s/%d", serverURL(t, "redis"), database)
		}
		return serverURL(t, kind) + "/"
	}
	f.server = serverOptions{broker: url(p.broker), backend: url(p.backend),
		queue: name, declareArgs: options.declareArgs, prefetch: 10}
	if p.broker == "amqp" {
		f.deleteAtEnd(name)
	}
	return f
}

// claimDatabase takes one of Redis' databases 1 to 15 for the time of the test,
// among all the tests that run at the same time.
func (f *fleet) claimDatabase() int {
	url := serverURL(f.t, "redis")
	claims, err := redis.DialURL(url)
	if err != nil {
		f.t.Fatal(err)
	}
	key := func(n int) string { return fmt.Sprintf("penstock-interop:%d", n) }
	for deadline := time.Now().Add(testLimit); time.Now().Before(deadline); {
		for n := 1; n <= 15; n++ {
			claimed, err := redis.String(claims.Do("SET", key(n), f.t.Name(), "NX", "EX", 600))
			if err != nil || claimed != "OK" {
				continue
			}
			f.redis = &redis.Pool{Dial: func() (redis.Conn, error) {
				return redis.DialURL(fmt.Sprintf("%s/%d", url, n))
			}}
			f.do("FLUSHDB")
			f.t.Cleanup(func() {
				f.do("FLUSHDB")
				f.redis.Close()
				claims.Do("DEL", key(n))
				claims.Close()
			})
			return n
		}
		time.Sleep(100 * time.Millisecond)
	}
	f.t.Fatal("all databases of Redis are taken")
	return 0
}

// do asks the fleet's database.
func (f *fleet) do(command string, args ...any) any {
	f.t.Helper()
	conn := f.redis.Get()
	defer conn.Close()
	reply, err := conn.Do(command, args...)
	if err != nil {
		f.t.Errorf("%s %v: %v", command, args, err)
	}
	return reply
}

// deleteAtEnd removes a queue, and the exchange of that name, after all that is
// started from now on has stopped.
func (f *fleet) deleteAtEnd(queue string) {
	f.t.Cleanup(func() {
		conn, err := amqp.Dial(f.server.broker)
		if err != nil {
			f.t.Error(err)
			return
		}
		defer conn.Close()
		channel, err := conn.Channel()
		if err == nil {
			_, err = channel.QueueDelete(queue, false, false, false)
		}
		if err == nil {
			err = channel.ExchangeDelete(queue, false, false)
		}
		if err != nil {
			f.t.Error("deleting the queue: ", err)
		}
	})
}

func (f *fleet) binary(name string) string {
	directory := os.Getenv("PENSTOCK_BIN_DIR")
	if directory == "" {
		directory = "../../build/dev/bin"
	}
	return filepath.Join(directory, name)
}

func (f *fleet) environment() []string {
	return append(append(os.Environ(),
		"PENSTOCK_BROKER="+f.server.broker,
		"PENSTOCK_RESULT_BACKEND="+f.server.backend,
		"PENSTOCK_DEFAULT_QUEUE="+f.server.queue,
		"PENSTOCK_AMQP_EXCHANGE="+f.server.queue,
		"PENSTOCK_AMQP_BINDING_KEY="+f.server.queue,
		// A storm may wait for its rarest case for longer than ten minutes.
		"PENSTOCK_RESULTS_EXPIRE_IN=3600",
		"PENSTOCK_CONCURRENCY=8",
		"INTEROP_RUNS="+filepath.Join(f.dir, "runs")), f.options.environment...)
}

// The kernel ends a child when the thread that started it ends, so all are
// started by one thread, which never does.
var starts = func() chan func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for start := range work {
			start()
		}
	}()
	return work
}()

// start runs a program of Penstock until the test ends, or stop is called.
func (f *fleet) start(binary string, environment ...string) (stop func()) {
	f.t.Helper()
	stop, _ = f.startPath(f.binary(binary), environment...)
	return stop
}

// log is that of the program that was started last.
func (f *fleet) log(binary string) string {
	return filepath.Join(f.dir, fmt.Sprintf("%d-%s.log", f.started, binary))
}

// startPath runs a program; `kill` is kill -9.
func (f *fleet) startPath(path string, environment ...string) (stop, kill func()) {
	f.t.Helper()
	f.started++
	binary := filepath.Base(path)
	log := f.log(binary)
	file, err := os.Create(log)
	if err != nil {
		f.t.Fatal(err)
	}
	command := exec.Command(path)
	command.Env = append(f.environment(), environment...)
	command.Stdout, command.Stderr = file, file
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	failed := make(chan error)
	starts <- func() { failed <- command.Start() }
	err = <-failed
	file.Close()
	if err != nil {
		f.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		command.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-ended:
			if err != nil {
				f.t.Errorf("%s: %v", binary, err)
			}
		case <-time.After(stopLimit):
			f.t.Errorf("%s had to be killed", binary)
			command.Process.Kill()
			<-ended
		}
		if f.t.Failed() {
			text, _ := os.ReadFile(log)
			f.t.Logf("the end of the log of %s:\n%s", binary, text[max(0, len(text)-3000):])
		}
	}
	kill = func() {
		if !stopped {
			stopped = true
			command.Process.Kill()
			<-ended
		}
	}
	f.t.Cleanup(stop)
	return stop, kill
}

func (f *fleet) startWorker(environment ...string) (stop func()) {
	return f.start("interop_worker", environment...)
}

// newServer is a server of machinery that knows the tests' tasks.
func (f *fleet) newServer() machinery { return f.newServerAt(f.server) }

func (f *fleet) newServerAt(options serverOptions) machinery {
	f.t.Helper()
	m, err := newMachinery(f.version, options)
	if err == nil {
		err = m.register(testTasks(m, &f.runs))
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return m
}

// startGoWorker runs a worker of Go in this process.
func (f *fleet) startGoWorker() {
	f.t.Helper()
	f.launch(f.newServer(), 10, "")
}

func (f *fleet) launch(m machinery, concurrency int, queue string) {
	f.started++
	stop := m.work(fmt.Sprintf("go-%d", f.started), concurrency, queue)
	f.t.Cleanup(func() {
		stopped := make(chan struct{})
		go func() { stop(); close(stopped) }()
		select {
		case <-stopped:
		case <-time.After(stopLimit):
			f.t.Error("a Go worker did not stop")
		}
	})
}

// startGateway returns when broker and backend are there.
func (f *fleet) startGateway() {
	f.t.Helper()
	f.start("penstock-gateway", "PENSTOCK_LISTEN=127.0.0.1:0")
	log := f.log("penstock-gateway")
	listening := regexp.MustCompile(`listening address=(\S+)\n`)
	var address string
	eventually(f.t, "the gateway's address in "+log, func() bool {
		text, _ := os.ReadFile(log)
		if found := listening.FindSubmatch(text); found != nil {
			address = string(found[1])
		}
		return address != ""
	})
	conn, err := grpc.Dial(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		f.t.Fatal(err)
	}
	f.conn = conn
	f.t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	watch, err := grpc_health_v1.NewHealthClient(conn).Watch(ctx,
		&grpc_health_v1.HealthCheckRequest{Service: "penstock.v1.GatewayService"})
	for err == nil {
		var news *grpc_health_v1.HealthCheckResponse
		news, err = watch.Recv()
		if err == nil && news.Status == grpc_health_v1.HealthCheckResponse_SERVING {
			return
		}
	}
	f.t.Fatal("the gateway does not serve: ", err)
}

// runsOf is how often the handlers of both sides ran, by task id.
func (f *fleet) runsOf() map[string]int {
	counts := map[string]int{}
	text, err := os.ReadFile(filepath.Join(f.dir, "runs"))
	if err != nil && !os.IsNotExist(err) {
		f.t.Error(err)
	}
	for _, line := range strings.Split(string(text), "\n") {
		if id, _, found := strings.Cut(line, " "); found {
			counts[id]++
		}
	}
	f.runs.mu.Lock()
	defer f.runs.mu.Unlock()
	for id, count := range f.runs.byID {
		counts[id] += count
	}
	return counts
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(testLimit); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not come: %s", what)
		}
	}
}
