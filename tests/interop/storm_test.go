// Workers of both kinds killed at random moments, while both run the same chains,
// groups and chords.
package interop

import (
	"fmt"
	"math/rand"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "penstock.dev/interop/penstockv1"
)

// goWorkerVersion makes this program a Go worker of that version of machinery,
// configured by the environment as interop_worker is.
const goWorkerVersion = "INTEROP_GO_WORKER"

func runGoWorker(version string) {
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	file, err := os.OpenFile(os.Getenv("INTEROP_RUNS"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		fail(err)
	}
	m, err := newMachinery(version, serverOptions{
		broker:   os.Getenv("PENSTOCK_BROKER"),
		backend:  os.Getenv("PENSTOCK_RESULT_BACKEND"),
		queue:    os.Getenv("PENSTOCK_DEFAULT_QUEUE"),
		prefetch: 10,
	})
	if err == nil {
		err = m.register(testTasks(m, &runs{byID: map[string]int{}, file: file}))
	}
	if err != nil {
		fail(err)
	}
	stop := m.work(fmt.Sprintf("go-%d", os.Getpid()), 5, "")
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	<-end
	stop()
	os.Exit(0)
}

// A flag that a dying Go worker set, after it had written PENDING of the callback
// anew, is only taken up by the sweeper after ten minutes: until then it may be a
// backlog. docs/architecture.md, section 6.
const stormLimit = 12 * time.Minute

// TestStorm kills 8 workers amid 400 tasks; INTEROP_KILLS says otherwise. Over
// RabbitMQ, since what a Go worker takes from Redis dies with it (W2).
func TestStorm(t *testing.T) {
	kills := 8
	if text := os.Getenv("INTEROP_KILLS"); text != "" {
		var err error
		if kills, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	for _, version := range []string{"v1", "v2"} {
		t.Run(version, func(t *testing.T) { testStorm(t, version, kills) })
	}
}

// stormed is one chain, group or chord: its ids, and the results of some.
type stormed struct {
	ids  []string
	want map[string]int64
}

func testStorm(t *testing.T, version string, kills int) {
	f := newFleet(t, pair{"amqp", "redis"}, version, fleetOptions{})
	f.startGateway()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	start := func(worker int) (kill func()) {
		if worker < 2 {
			_, kill = f.startPath(f.binary("interop_worker"))
		} else {
			_, kill = f.startPath(self, goWorkerVersion+"="+version)
		}
		return kill
	}
	var killers [4]func()
	for worker := range killers {
		killers[worker] = start(worker)
	}
	// A worker of machinery does not always end when it is told to.
	defer func() {
		for _, kill := range killers {
			kill()
		}
	}()

	const callsPerKill, senders = 12, 4
	calls := kills * callsPerKill
	sent := make([]stormed, calls)
	var done, next atomic.Int64
	var all sync.WaitGroup
	for range senders {
		all.Add(1)
		go func() {
			defer all.Done()
			for {
				call := int(next.Add(1)) - 1
				if call >= calls || t.Failed() {
					return
				}
				sent[call] = stormOne(t, gatewayClient{f.conn}, call)
				done.Add(1)
			}
		}()
	}
	for kill := range kills {
		moment := int64(kill*callsPerKill + rand.Intn(callsPerKill))
		eventually(t, "calls", func() bool { return t.Failed() || done.Load() >= moment })
		victim := rand.Intn(len(killers))
		killers[victim]()
		killers[victim] = start(victim)
	}
	all.Wait()
	if t.Failed() {
		return
	}

	tasks, begun := 0, time.Now()
	for _, s := range sent {
		tasks += len(s.ids)
		for _, id := range s.ids {
			state := stormEnd(t, f, id, begun.Add(stormLimit))
			if state.Status != pb.TaskStatus_TASK_STATUS_SUCCESS {
				t.Errorf("%s ended as %v", id, state)
			} else if want, is := s.want[id]; is && state.Results[0].GetIntValue() != want {
				t.Errorf("%s: got %v, want %d", id, state.Results, want)
			}
		}
	}
	again, runs := 0, f.runsOf()
	for _, s := range sent {
		for _, id := range s.ids {
			if runs[id] == 0 {
				t.Errorf("%s succeeded and never ran", id)
			}
			again += max(runs[id]-1, 0)
		}
	}
	t.Logf("%d tasks, %d kills, %d runs cut short or doubled", tasks, kills, again)
}

func stormOne(t *testing.T, c gatewayClient, call int) stormed {
	add := func(args ...any) *Sig { return task("add", args...) }
	switch call % 3 {
	case 0:
		links := []*Sig{add(call, 1), add(10), add(100), add(1000)}
		c.sendChain(t, links)
		last := links[len(links)-1].UUID
		return stormed{idsOf(links), map[string]int64{last: int64(call) + 1111}}
	case 1:
		members := []*Sig{add(call, 0), add(call, 1), add(call, 2)}
		c.sendGroup(t, members, 0)
		want := map[string]int64{}
		for i, id := range idsOf(members) {
			want[id] = int64(call + i)
		}
		return stormed{idsOf(members), want}
	default:
		members := []*Sig{add(call, 0), add(call, 1), add(call, 2), add(call, 3)}
		callback := add(1000)
		c.sendChord(t, members, callback, 0)
		return stormed{append(idsOf(members), callback.UUID),
			map[string]int64{callback.UUID: int64(4*call + 1006)}}
	}
}

func stormEnd(t *testing.T, f *fleet, id string, deadline time.Time) *pb.TaskState {
	t.Helper()
	c := gatewayClient{f.conn}
	for {
		var response pb.GetStateResponse
		c.mustCall(t, "GetState", &pb.GetStateRequest{TaskId: id, Wait: durationpb.New(time.Minute)},
			&response)
		if response.State.Status >= pb.TaskStatus_TASK_STATUS_SUCCESS {
			return response.State
		}
		if time.Now().After(deadline) {
			t.Fatalf("did not end: %v", response.State)
		}
	}
}
