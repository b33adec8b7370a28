// What a fleet of both must do, for each pair of broker and backend and each
// version of machinery: TestInterop/PAIR/VERSION/WHAT.
package interop

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	pb "penstock.dev/interop/penstockv1"
)

func TestMain(m *testing.M) {
	silence()
	if version := os.Getenv(goWorkerVersion); version != "" {
		runGoWorker(version)
	}
	os.Exit(m.Run())
}

func TestInterop(t *testing.T) {
	for _, p := range []pair{{"amqp", "redis"}, {"redis", "redis"}, {"amqp", "amqp"}} {
		t.Run(p.String(), func(t *testing.T) {
			for _, version := range []string{"v1", "v2"} {
				t.Run(version, func(t *testing.T) { testPair(t, p, version) })
			}
		})
	}
}

func testPair(t *testing.T, p pair, version string) {
	// The AMQP backend has no groups: docs/wire-format.md says why.
	groups := p.backend != "amqp"
	run := func(name string, test func(*testing.T, pair, string)) {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, p, version) })
	}
	t.Run("machinerys-own-flow", func(t *testing.T) { testFlow(t, p, version, groups) })
	t.Run("penstock-worker", func(t *testing.T) {
		t.Parallel()
		f := newFleet(t, p, version, fleetOptions{})
		f.startGateway()
		f.startWorker()
		testCases(t, f, "cpp", groups)
	})
	t.Run("go-worker", func(t *testing.T) {
		t.Parallel()
		f := newFleet(t, p, version, fleetOptions{})
		f.startGateway()
		f.startGoWorker()
		testCases(t, f, "go", groups)
	})
	if !groups {
		return
	}
	run("pending-tasks", testPending)
	run("custom-queues", testQueues)
	if p.broker == "amqp" {
		run("priority", testPriority) // lists of Redis have none
	}
	run("mixed", testMixed)
	run("unknown-names", testUnknownNames)
	run("names-that-nobody-knows", testNobodyKnows)
}

// testCases runs every feature on workers of one kind, from both clients.
func testCases(t *testing.T, f *fleet, worker string, groups bool) {
	clients := []client{goClient{f.newServer()}, gatewayClient{f.conn}}
	// The group ends when its parallel tests have ended: before the fleet does.
	for _, c := range clients {
		t.Run(c.name(), func(t *testing.T) {
			run := func(name string, test func(*testing.T)) {
				t.Run(name, func(t *testing.T) { t.Parallel(); test(t) })
			}
			run("types", func(t *testing.T) { testTypes(t, c, worker) })
			run("results", func(t *testing.T) { testResults(t, c) })
			run("errors", func(t *testing.T) { testErrors(t, f, c, worker) })
			run("eta", func(t *testing.T) { testETA(t, c) })
			run("retries", func(t *testing.T) { testRetries(t, c) })
			run("headers", func(t *testing.T) { testHeaders(t, c, worker) })
			run("callbacks", func(t *testing.T) { testCallbacks(t, c) })
			run("chain", func(t *testing.T) { testChain(t, c, groups) })
			if groups {
				run("groups", func(t *testing.T) { testGroups(t, f, c) })
				run("chords", func(t *testing.T) { testChords(t, c, worker) })
				run("readers", func(t *testing.T) { testReaders(t, f, c, worker) })
			}
		})
	}
}

// asWorker is what a worker makes of a value: lists are never null, and C++ has
// no integers without a width.
func asWorker(value any, worker string) any {
	v := reflect.ValueOf(value)
	if v.Kind() == reflect.Slice && v.IsNil() {
		v = reflect.MakeSlice(v.Type(), 0, 0)
	}
	wide := map[string]string{"int": "int64", "uint": "uint64", "[]int": "[]int64", "[]uint": "[]uint64"}
	name, narrow := wide[v.Type().String()]
	if worker == "go" || !narrow {
		return v.Interface()
	}
	if v.Kind() != reflect.Slice {
		return v.Convert(goTypes[name]).Interface()
	}
	list := reflect.MakeSlice(goTypes[name], 0, v.Len())
	for i := 0; i < v.Len(); i++ {
		list = reflect.Append(list, v.Index(i).Convert(goTypes[name].Elem()))
	}
	return list.Interface()
}

func testTypes(t *testing.T, c client, worker string) {
	values := allValues()
	kinds := map[string]bool{}
	futures := make([]future, len(values))
	for i, value := range values {
		kinds[value.Type] = true
		futures[i] = c.send(t, task("echo."+value.Type, value))
	}
	if len(kinds) != 29 {
		t.Errorf("%d types, want 29", len(kinds))
	}
	for i, value := range values {
		check(t, fmt.Sprintf("%s %v", value.Type, value.Value), futures[i](), asWorker(value.Value, worker))
	}
}

func testResults(t *testing.T, c client) {
	check(t, "none", c.send(t, task("nothing"))())
	check(t, "several", c.send(t, task("several", -7, "<ä>"))(),
		int64(-7), "<ä>", true, 0.25, []string{"<ä>", ""})
}

func testErrors(t *testing.T, f *fleet, c client, worker string) {
	const text = "no \"luck\" <&> ä\n\u2028"
	checkError(t, "error", c.send(t, task("fail", text))(), text)
	checkError(t, "panic", c.send(t, task("panic", text))(), text)
	if out := c.send(t, task("several", 1))(); out.err == "" {
		t.Error("too few arguments: ", out.results)
	}
	// An argument of the wrong kind ends a Go worker's consumer (W3), and the
	// gateway sends none.
	if _, fromGo := c.(goClient); fromGo && worker == "cpp" {
		out := c.send(t, task("add", arg("int64", "x")))()
		if !strings.Contains(out.err, "argument 1") {
			t.Errorf("wrong kind: %v %q", out.results, out.err)
		}
	}
}

// goDelay is how long a delay of Go's must be to arrive: the queue that it waits
// in lives for twice the delay, and on a busy machine the message may come into
// it late (docs/wire-format.md section 3).
const goDelay = 8 * time.Second

func testETA(t *testing.T, c client) {
	for _, pause := range []time.Duration{-time.Hour, goDelay} {
		eta := time.Now().Add(pause).UTC()
		sig := task("now")
		sig.ETA = &eta
		out := c.send(t, sig)()
		if out.err != "" || len(out.results) != 1 {
			t.Fatal(out)
		}
		// Redis' scores and the delay queues are exact to the millisecond.
		if ran := out.results[0].(int64); ran/1e6 < eta.UnixMilli() {
			t.Errorf("ran %d ns before its time", eta.UnixNano()-ran)
		}
	}
}

func testRetries(t *testing.T, c client) {
	flaky := func(failures, retries int) *Sig {
		sig := task("flaky", failures)
		sig.RetryCount = retries
		sig.RetryTimeout = 5 // the next one is of 8 s: see goDelay
		return sig
	}
	enough := c.send(t, flaky(1, 3))
	tooFew := c.send(t, flaky(9, 1))
	none := c.send(t, flaky(1, 0))
	later := c.send(t, task("later", 1, int(goDelay/time.Millisecond)))
	check(t, "retried", enough(), int64(2))
	checkError(t, "retried too little", tooFew(), "attempt 2 failed")
	checkError(t, "not retried", none(), "attempt 1 failed")
	check(t, "asked for another time", later(), int64(2))
}

// ours are headers that Penstock adds.
func withoutOurs(t *testing.T, out outcome) map[string]any {
	t.Helper()
	var headers map[string]any
	if out.err != "" || len(out.results) != 1 {
		t.Fatal(out)
	}
	if err := json.Unmarshal([]byte(out.results[0].(string)), &headers); err != nil {
		t.Fatal(err, out)
	}
	for key := range headers {
		if strings.HasPrefix(key, "penstock-") {
			delete(headers, key)
		}
	}
	return headers
}

func checkHeaders(t *testing.T, got map[string]any, want map[string]any) {
	t.Helper()
	if encode(got) != encode(want) {
		t.Errorf("headers: got %s, want %s", encode(got), encode(want))
	}
}

func testHeaders(t *testing.T, c client, worker string) {
	headers := map[string]any{"traceparent": "00-ab-cd-01", "ä<": "\"\n"}
	sig := task("headers")
	sig.Headers = headers
	checkHeaders(t, withoutOurs(t, c.send(t, sig)()), headers)
	if _, fromGo := c.(goClient); !fromGo {
		return
	}
	// Go may put anything into a header that AMQP has a type for.
	headers = map[string]any{"n": int64(1) << 40, "f": 1.5, "yes": true, "s": "x", "none": nil}
	sig = task("headers")
	sig.Headers = headers
	checkHeaders(t, withoutOurs(t, c.send(t, sig)()), headers)
}

func testCallbacks(t *testing.T, c client) {
	parent := task("add", 1, 2)
	children := []*Sig{task("add", 10), task("add", 20)}
	parent.OnSuccess = children
	c.send(t, parent)
	check(t, "first on_success", c.await(t, children[0].UUID), int64(13))
	check(t, "second on_success", c.await(t, children[1].UUID), int64(23))

	parent = task("several", 5, "x")
	parent.Immutable = true
	child := task("add", 10)
	parent.OnSuccess = []*Sig{child}
	c.send(t, parent)
	check(t, "on_success of an immutable one", c.await(t, child.UUID), int64(10))

	parent = task("fail", "bad <luck>")
	errors := []*Sig{task("concat", "a"), task("concat")}
	errors[1].Immutable = true
	parent.OnError = errors
	parent.OnSuccess = []*Sig{task("nothing")}
	c.send(t, parent)
	check(t, "first on_error", c.await(t, errors[0].UUID), "bad <luck>|a")
	check(t, "on_error, immutable", c.await(t, errors[1].UUID), "bad <luck>")
}

func testChain(t *testing.T, c client, repeatable bool) {
	links := []*Sig{task("add", 1), task("add", 2), task("add", 3), task("add", 4)}
	check(t, "chain", c.sendChain(t, links)(), int64(10))
	for i, want := range []int64{1, 3, 6, 10} {
		if !repeatable { // an AMQP backend gives each state once
			break
		}
		check(t, fmt.Sprintf("link %d", i), c.await(t, links[i].UUID), want)
	}
	links = []*Sig{task("add", 1), task("fail", "snapped"), task("add", 2)}
	links[0].Immutable = true
	end := c.sendChain(t, links)
	if _, fromGo := c.(goClient); !fromGo && !repeatable {
		// Nor has it a record of a chain, by which those after a link that failed
		// on a Go worker are ended.
		end = func() outcome { return c.await(t, links[1].UUID) }
	}
	if out := end(); !strings.Contains(out.err, "snapped") {
		t.Errorf("broken chain: %v %q", out.results, out.err)
	}
}

// awaitGroup asks the gateway, whoever sent the group.
func awaitGroup(t *testing.T, f *fleet, group string) *pb.GroupState {
	t.Helper()
	var response pb.GetGroupStateResponse
	gatewayClient{f.conn}.mustCall(t, "GetGroupState", &pb.GetGroupStateRequest{GroupId: group,
		Wait: durationOf(testLimit)}, &response)
	return response.Group
}

func testGroups(t *testing.T, f *fleet, c client) {
	for _, concurrency := range []int{0, 3} {
		var members []*Sig
		for i := 0; i < 20; i++ {
			members = append(members, task("add", i, i))
		}
		c.sendGroup(t, members, concurrency)
		for i, member := range members {
			check(t, fmt.Sprintf("member %d", i), c.await(t, member.UUID), int64(2*i))
		}
		group := awaitGroup(t, f, members[0].GroupUUID)
		if !group.Done || group.Total != 20 || group.ChordTriggered {
			t.Errorf("group: %v", group)
		}
	}
}

func testChords(t *testing.T, c client, worker string) {
	members := func() []*Sig { return []*Sig{task("add", 1), task("add", 20), task("add", 300)} }
	check(t, "chord", c.sendChord(t, members(), task("add", 4000), 0)(), int64(4321))
	check(t, "order", c.sendChord(t, []*Sig{task("concat", "a"), task("concat", "b"),
		task("concat", "c")}, task("concat", "z"), 1)(), "z|a|b|c")
	immutable := task("add", 7)
	immutable.Immutable = true
	check(t, "immutable callback", c.sendChord(t, members(), immutable, 0)(), int64(7))
	// Go drops the callback where a member failed (W11).
	if worker == "cpp" {
		callback := task("add")
		c.sendChord(t, append(members(), task("fail", "sad")), callback, 0)
		if out := c.await(t, callback.UUID); !strings.Contains(out.err, "sad") {
			t.Errorf("callback after a failure: %v %q", out.results, out.err)
		}
	}
}

// testReaders: each side reads what the other wrote.
func testReaders(t *testing.T, f *fleet, c client, worker string) {
	gateway := gatewayClient{f.conn}
	reader := f.newServer()

	nap := task("nap", 300)
	c.send(t, nap)
	states := gateway.watch(t, nap.UUID)
	if len(states) == 0 || states[len(states)-1].Status != pb.TaskStatus_TASK_STATUS_SUCCESS {
		t.Errorf("WatchState: %v", states)
	}
	state := gateway.state(t, nap.UUID)
	if state.Name != "nap" && worker == "cpp" || state.TaskId != nap.UUID {
		t.Errorf("GetState: %v", state)
	}
	check(t, "AsyncResult", get(reader.result(nap.UUID)), int64(300))

	links := []*Sig{task("add", 1), task("add", 2)}
	c.sendChain(t, links)
	check(t, "GetState of a chain", gateway.await(t, links[1].UUID), int64(3))
	check(t, "ChainAsyncResult", get(reader.chainResult(idsOf(links))), int64(3))

	members := []*Sig{task("add", 1), task("add", 2)}
	callback := task("add")
	c.sendChord(t, members, callback, 0)
	check(t, "ChordAsyncResult", get(reader.chordResult(idsOf(members), callback.UUID)), int64(3))
	check(t, "GetState of a chord", gateway.await(t, callback.UUID), int64(3))
	eventually(t, "the group of the chord is done", func() bool {
		return awaitGroup(t, f, members[0].GroupUUID).ChordTriggered
	})

	var batch pb.BatchGetStatesResponse
	gateway.mustCall(t, "BatchGetStates", &pb.BatchGetStatesRequest{
		TaskIds: append(idsOf(members), "no-such-task")}, &batch)
	if len(batch.States) != 2 || len(batch.MissingTaskIds) != 1 {
		t.Errorf("BatchGetStates: %v", &batch)
	}
}

// testPending: Go's list of what waits has what the gateway sent, and leaves it.
func testPending(t *testing.T, p pair, version string) {
	f := newFleet(t, p, version, fleetOptions{})
	f.startGateway()
	gateway := gatewayClient{f.conn}
	sent := map[string]bool{}
	var futures []future
	for i := 0; i < 5; i++ {
		sig := task("add", i)
		sent[sig.UUID] = true
		futures = append(futures, gateway.send(t, sig))
	}
	ids, err := f.newServer().pending(f.server.queue)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if !sent[id] {
			t.Errorf("not sent, or twice: %s", id)
		}
		delete(sent, id)
	}
	if len(sent) > 0 {
		t.Errorf("not listed: %v", sent)
	}
	f.startWorker()
	for i, result := range futures {
		check(t, "after it was listed", result(), int64(i))
	}
}

// testQueues: a task goes where its routing key says, both ways.
func testQueues(t *testing.T, p pair, version string) {
	f := newFleet(t, p, version, fleetOptions{})
	f.startGateway()
	f.startWorker()
	server := f.newServer()
	clients := []client{goClient{server}, gatewayClient{f.conn}}

	// A queue of its own for each kind of worker. Over AMQP a worker of Go binds
	// its queue by binding_key, so that is the queue's name too.
	queues := map[string]string{"cpp": f.server.queue + "_cpp", "go": f.server.queue + "_go"}
	if p.broker == "amqp" {
		for _, queue := range queues {
			f.deleteAtEnd(queue)
		}
	}
	f.startWorker("INTEROP_QUEUE=" + queues["cpp"])
	options := f.server
	options.bindingKey = queues["go"]
	f.launch(f.newServerAt(options), 10, queues["go"])
	for _, c := range clients {
		for worker, queue := range queues {
			t.Run(c.name()+"/to-"+worker, func(t *testing.T) {
				if p.broker == "amqp" {
					// The gateway refuses a key that no queue takes, and worker and
					// queue are still coming up.
					eventually(t, "the queue "+queue, func() bool {
						probe := task("who")
						probe.RoutingKey = queue
						return gatewayClient{f.conn}.call("SendTask",
							&pb.SendTaskRequest{Task: toTask(probe)}, &pb.SendTaskResponse{}) == nil
					})
				}
				for i := 0; i < 5; i++ {
					sig := task("who")
					sig.RoutingKey = queue
					check(t, "who ran it", c.send(t, sig)(), worker)
				}
				check(t, "the default queue", c.send(t, task("who"))(), "cpp")
			})
		}
	}
}

// testPriority: of what waits, a worker that holds one task at a time takes the
// most urgent first.
func testPriority(t *testing.T, p pair, version string) {
	for _, worker := range []string{"cpp", "go"} {
		for _, from := range []string{"from-go", "from-gateway"} {
			t.Run(from+"/to-"+worker, func(t *testing.T) {
				f := newFleet(t, p, version, fleetOptions{
					environment: []string{"PENSTOCK_AMQP_QUEUE_DECLARE_ARGS=x-max-priority:10",
						"PENSTOCK_AMQP_PREFETCH_COUNT=1", "PENSTOCK_CONCURRENCY=1"},
					declareArgs: map[string]any{"x-max-priority": int64(10)},
				})
				f.server.prefetch = 1
				f.startGateway()
				var c client = gatewayClient{f.conn}
				if from == "from-go" {
					c = goClient{f.newServer()}
				}
				priorities := []uint8{0, 5, 1, 9, 3, 10, 7}
				ran := map[uint8]future{}
				for _, priority := range priorities {
					sig := task("now")
					sig.Priority = priority
					ran[priority] = c.send(t, sig)
				}
				if worker == "cpp" {
					f.startWorker()
				} else {
					f.launch(f.newServer(), 1, "")
				}
				last := int64(0)
				for _, priority := range []uint8{10, 9, 7, 5, 3, 1, 0} {
					out := ran[priority]()
					if out.err != "" || out.results[0].(int64) < last {
						t.Fatalf("priority %d ran too early: %v", priority, out)
					}
					last = out.results[0].(int64)
				}
			})
		}
	}
}

// testMixed: one queue, workers of both kinds, tasks that only one knows.
func testMixed(t *testing.T, p pair, version string) {
	f := newFleet(t, p, version, fleetOptions{})
	f.startGateway()
	f.startWorker()
	// One task at a time each: all chords that end on Go workers contend for one
	// lock (W12), and a worker that does not get it breaks down (W3): see check.
	for i := 0; i < 3; i++ {
		f.launch(f.newServer(), 1, "")
	}
	clients := []client{goClient{f.newServer()}, gatewayClient{f.conn}}
	t.Run("all", func(t *testing.T) {
		for _, c := range clients {
			t.Run(c.name()+"/chain", func(t *testing.T) {
				t.Parallel()
				var links []*Sig
				for i := 0; i < 6; i++ {
					links = append(links, task([]string{"go.concat", "cpp.concat"}[i%2], fmt.Sprint(i)))
				}
				check(t, "alternating chain", c.sendChain(t, links)(), "5|4|3|2|1|0")
			})
			t.Run(c.name()+"/callbacks", func(t *testing.T) {
				t.Parallel()
				for _, names := range [][2]string{{"go.", "cpp."}, {"cpp.", "go."}} {
					parent, child := task(names[0]+"fail", "x"), task(names[1]+"concat")
					parent.OnError = []*Sig{child}
					c.send(t, parent)
					check(t, "on_error across", c.await(t, child.UUID), "x")
				}
			})
		}
		t.Run("headers-that-are-no-strings", func(t *testing.T) {
			t.Parallel()
			c := goClient{f.newServer()}
			// What AMQP has no type for can only be nested, and only C++ sends it on.
			headers := map[string]any{"n": int64(1) << 40, "f": 1.5, "yes": true,
				"list": []any{1.5, "<", nil}, "map": map[string]any{"b": 1, "a": "ä"}}
			parent, child := task("cpp.nothing"), task("go.headers")
			child.Headers = headers
			parent.OnSuccess = []*Sig{child}
			c.send(t, parent)
			checkHeaders(t, withoutOurs(t, c.await(t, child.UUID)), headers)
		})
		t.Run("chords", func(t *testing.T) { t.Parallel(); testManyChords(t, f, clients) })
	})
}

const (
	manyChords = 1000
	openChords = 30 // at the same time
)

// testManyChords: members run on both, callbacks on either; each callback once.
func testManyChords(t *testing.T, f *fleet, clients []client) {
	type ended struct {
		callback *Sig
		outcome  outcome
		want     int64
	}
	ends := make(chan ended, manyChords)
	next := make(chan int, manyChords)
	for i := 0; i < manyChords; i++ {
		next <- i
	}
	close(next)
	gateway := gatewayClient{f.conn}
	var senders sync.WaitGroup
	for sender := 0; sender < openChords; sender++ {
		senders.Add(1)
		go func() {
			defer senders.Done()
			for i := range next {
				if t.Failed() {
					continue
				}
				members := []*Sig{task("go.add", i), task("cpp.add", 1), task("add", 2)}
				callback := task([]string{"go.add", "cpp.add"}[i/2%2], 1000)
				result := clients[i%2].sendChord(t, members, callback, 0)
				if i%10 > 1 { // machinery's own future now and then
					result = func() outcome { return gateway.await(t, callback.UUID) }
				}
				ends <- ended{callback, result(), int64(i + 1003)}
			}
		}()
	}
	senders.Wait()
	close(ends)
	var chords []ended
	for c := range ends {
		chords = append(chords, c)
		check(t, "chord with callback "+c.callback.UUID, c.outcome, c.want)
	}
	if len(chords) < manyChords {
		t.Errorf("only %d chords ended", len(chords))
	}
	runs := f.runsOf()
	for _, c := range chords {
		if n := runs[c.callback.UUID]; n != 1 {
			t.Errorf("callback %s %s ran %d times", c.callback.Name, c.callback.UUID, n)
		}
	}
}

// passedOn are the times at which the Penstock workers passed a task on, by
// their logs.
func passedOn(f *fleet, id string) (times []time.Time) {
	logs, _ := filepath.Glob(filepath.Join(f.dir, "*-interop_worker.log"))
	for _, log := range logs {
		text, err := os.ReadFile(log)
		if err != nil {
			f.t.Error(err)
		}
		for _, line := range strings.Split(string(text), "\n") {
			stamp, what, _ := strings.Cut(line, " ")
			if !strings.Contains(what, "passed on task="+id+" ") {
				continue
			}
			at, err := time.Parse(time.RFC3339, stamp)
			if err != nil {
				f.t.Error(err)
			}
			times = append(times, at)
		}
	}
	return times
}

// testUnknownNames: what only Go knows waits, untouched and without haste, until
// a Go worker is there.
func testUnknownNames(t *testing.T, p pair, version string) {
	f := newFleet(t, p, version, fleetOptions{})
	f.startGateway()
	f.startWorker()
	clients := []client{goClient{f.newServer()}, gatewayClient{f.conn}}
	var futures []future
	for i, c := range clients {
		sig := task("go.add", i)
		futures = append(futures, c.send(t, sig))
		before, _ := redis.String(f.do("GET", sig.UUID), nil)
		eventually(t, "it is passed on three times", func() bool {
			return len(passedOn(f, sig.UUID)) >= 3
		})
		times := passedOn(f, sig.UUID)
		for n := 1; n < len(times); n++ {
			// Half a second at first, to the precision of the log.
			if pause := times[n].Sub(times[n-1]); pause < 498*time.Millisecond {
				t.Errorf("passed on again after %v", pause)
			}
		}
		if after, _ := redis.String(f.do("GET", sig.UUID), nil); after != before {
			t.Errorf("its state was touched: %s, then %s", before, after)
		}
	}
	f.startGoWorker()
	for i, result := range futures {
		check(t, clients[i].name(), result(), int64(i))
	}
}

// testNobodyKnows: in the end such a task fails visibly.
func testNobodyKnows(t *testing.T, p pair, version string) {
	f := newFleet(t, p, version, fleetOptions{
		environment: []string{"PENSTOCK_NOT_REGISTERED_LIMIT=1"}})
	f.startGateway()
	f.startWorker()
	for n, c := range []client{goClient{f.newServer()}, gatewayClient{f.conn}} {
		sig := task("mystery", 1)
		failed := task("concat")
		sig.OnError = []*Sig{failed}
		const want = `no worker has a handler named "mystery"`
		checkError(t, c.name(), c.send(t, sig)(), want)
		check(t, "on_error", c.await(t, failed.UUID), want)
		eventually(t, "a dead letter", func() bool {
			dead, _ := redis.Int(f.do("ZCARD", "penstock:dead:"+f.server.queue), nil)
			return dead == n+1
		})
		ignored := task("mystery", 1)
		ignored.IgnoreWhenTaskNotRegistered = true
		if out := c.send(t, ignored)(); !strings.HasPrefix(out.err, want) {
			t.Errorf("to be ignored: %v", out)
		}
	}
}
