package penstock

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	pb "penstock.dev/sdk/go/penstock/v1"
)

func stateAt(id string, status pb.TaskStatus, results ...*pb.Value) *pb.TaskState {
	return &pb.TaskState{TaskId: id, Status: status, Results: results}
}

const (
	pending = pb.TaskStatus_TASK_STATUS_PENDING
	started = pb.TaskStatus_TASK_STATUS_STARTED
	success = pb.TaskStatus_TASK_STATUS_SUCCESS
)

func TestAWaitGoesOnWhereAGatewayEndsIt(t *testing.T) {
	fake := startFake(t)
	fake.onRead = func(_ context.Context, n int, _ *pb.GetStateRequest) (*pb.TaskState, error) {
		switch n {
		case 0, 1: // drains
			return stateAt("t", started), nil
		case 2:
			return nil, refuse(codes.Unavailable, Draining)
		}
		return stateAt("t", success, intValue("int64", 3)), nil
	}
	var sum int
	begin := time.Now()
	if err := newTestClient(t, fake.address).Task("t").Result(testContext(t), &sum); err != nil || sum != 3 {
		t.Error(sum, err)
	}
	if took := time.Since(begin); took < 2*waitPause {
		t.Errorf("it spins: %v", took)
	}
	for _, read := range seen(fake, &fake.reads) {
		if wait := read.Wait.AsDuration(); wait < time.Second || wait > longestWait {
			t.Errorf("waits %v", wait)
		}
	}
}

func TestAWaitThatIsOverWrapsTheContextsError(t *testing.T) {
	fake := startFake(t)
	// As the gateway does: until shortly before the deadline of the call.
	fake.onRead = func(ctx context.Context, _ int, request *pb.GetStateRequest) (*pb.TaskState, error) {
		sleep(ctx, request.Wait.AsDuration()-20*time.Millisecond)
		return stateAt("t", started), nil
	}
	task := newTestClient(t, fake.address).Task("t")
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err := task.Results(ctx)
	if took := time.Since(begin); !errors.Is(err, context.DeadlineExceeded) || took > 5*time.Second {
		t.Error(err, took)
	}
	var failed *Error
	if errors.As(err, &failed) {
		t.Errorf("it looks like a failed call: %v", err)
	}
	if n := len(seen(fake, &fake.reads)); n > 4 {
		t.Errorf("%d calls", n)
	}

	ctx, cancel = context.WithCancel(context.Background())
	time.AfterFunc(100*time.Millisecond, cancel)
	if err := task.Result(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestAWaitForAnUnknownTaskFailsAtOnce(t *testing.T) {
	fake := startFake(t)
	fake.onRead = func(context.Context, int, *pb.GetStateRequest) (*pb.TaskState, error) {
		return nil, refuse(codes.NotFound, TaskNotFound)
	}
	err := newTestClient(t, fake.address).Task("t").Result(testContext(t))
	if !errors.Is(err, TaskNotFound) || len(seen(fake, &fake.reads)) != 1 {
		t.Error(err)
	}
}

func TestATaskThatDidNotSucceedIsAnError(t *testing.T) {
	for status, cancelled := range map[pb.TaskStatus]bool{
		pb.TaskStatus_TASK_STATUS_FAILURE: false, pb.TaskStatus_TASK_STATUS_CANCELLED: true} {
		fake := startFake(t)
		fake.onRead = func(context.Context, int, *pb.GetStateRequest) (*pb.TaskState, error) {
			return &pb.TaskState{TaskId: "t", Status: status,
				Error: &pb.TaskError{Message: "no ink", Type: "exception"}}, nil
		}
		err := newTestClient(t, fake.address).Task("t").Result(testContext(t))
		var ended *TaskError
		if !errors.As(err, &ended) ||
			*ended != (TaskError{TaskID: "t", Message: "no ink", Type: "exception", Cancelled: cancelled}) {
			t.Error(err)
		}
	}
}

func TestAWatchGoesOnWhereItBroke(t *testing.T) {
	fake := startFake(t)
	fake.onWatch = func(n int, send func(*pb.TaskState)) error {
		if n == 0 {
			send(stateAt("a", pending))
			send(stateAt("b", success))
			send(stateAt("a", started))
			return refuse(codes.Unavailable, Draining)
		}
		send(stateAt("a", started)) // told already
		send(stateAt("a", success))
		return nil
	}
	var got []string
	for state, err := range newTestClient(t, fake.address).Watch(testContext(t), "a", "b") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, state.TaskID+" "+string(state.Status))
	}
	if want := []string{"a PENDING", "b SUCCESS", "a STARTED", "a SUCCESS"}; !reflect.DeepEqual(got, want) {
		t.Error(got)
	}
	watches := seen(fake, &fake.watches)
	if len(watches) != 2 || !reflect.DeepEqual(watches[1].TaskIds, []string{"a"}) {
		t.Error(watches)
	}
}

func TestALongWatchOutlivesItsConnections(t *testing.T) {
	shortSteady(t)
	fake := startFake(t)
	fake.onWatch = func(n int, send func(*pb.TaskState)) error {
		if n == 4 {
			send(stateAt("t", success))
			return nil
		}
		send(stateAt("t", started))
		time.Sleep(200 * time.Millisecond)
		send(nil)
		return refuse(codes.Unavailable, Draining)
	}
	client := newTestClient(t, fake.address, WithRetryBudget(100*time.Millisecond))
	var last *State
	for state, err := range client.Task("t").Watch(testContext(t)) {
		if err != nil {
			t.Fatal(err)
		}
		last = state
	}
	if last.Status != Success {
		t.Error(last)
	}
}

func TestAWatchTellsWhatItCannotMend(t *testing.T) {
	fake := startFake(t)
	fake.onWatch = func(int, func(*pb.TaskState)) error { return refuse(codes.NotFound, TaskNotFound) }
	var last error
	count := 0
	for _, err := range newTestClient(t, fake.address).Task("t").Watch(testContext(t)) {
		last = err
		count++
	}
	if !errors.Is(last, TaskNotFound) || count != 1 {
		t.Error(count, last)
	}
}

func TestStatusesThatAreNotKnownAreUnspecified(t *testing.T) {
	if got := statusOf(99); got != Unspecified || got.Final() {
		t.Error(got)
	}
	if got := statusOf(pb.TaskStatus_TASK_STATUS_CANCELLED); got != Cancelled || !got.Final() {
		t.Error(got)
	}
}
