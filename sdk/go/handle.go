package penstock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "penstock.dev/sdk/go/penstock/v1"
)

const (
	// How long one call waits for an end, and how much longer the call may take.
	longestWait = 30 * time.Second
	waitMargin  = 10 * time.Second
	// A gateway that is stopping answers waits at once.
	waitPause = 100 * time.Millisecond
	// A watch that says nothing for so long, not even its 15 s keepalives, is dead.
	watchSilence = 45 * time.Second
)

// A Status is where a task stands. New ones may be added.
type Status string

// The statuses of tasks.
const (
	Unspecified Status = "UNSPECIFIED" // not known to this version, or expired
	Pending     Status = "PENDING"     // waits for a worker, its time, or what comes before it
	Received    Status = "RECEIVED"    // a Go worker has taken it
	Started     Status = "STARTED"     // its handler runs
	Retry       Status = "RETRY"       // a run failed, another one follows
	Success     Status = "SUCCESS"     // final: State.Results are set
	Failure     Status = "FAILURE"     // final: State.Error is set
	Cancelled   Status = "CANCELLED"   // final: State.Error is set
)

// Final is whether the status is a task's last one.
func (s Status) Final() bool { return s == Success || s == Failure || s == Cancelled }

func statusOf(s pb.TaskStatus) Status {
	name := s.String()
	if _, known := pb.TaskStatus_name[int32(s)]; !known {
		return Unspecified
	}
	return Status(strings.TrimPrefix(name, "TASK_STATUS_"))
}

// A State is how a task stands. What a Go machinery worker does not tell is zero.
type State struct {
	TaskID  string
	Name    string
	Status  Status
	Results []any      // of Success; native values, see Handle.Result
	Error   *TaskError // of Failure and Cancelled, and of Retry that of the last run

	CreateTime      time.Time // when it was accepted
	StartTime       time.Time // when its current or last run began
	FinishTime      time.Time // when it became final
	NextAttemptTime time.Time // when the next run is due; with Retry
	Attempt         int       // the number of the current or last run, from 1

	WorkerID  string
	GroupID   string
	Progress  *Progress // how far its handler says it has come; with Started
	RawStatus string    // as stored, where Status is Unspecified
}

// Progress is how far the handler of a running task says that it has come.
type Progress struct {
	Fraction   float64 // 0 to 1
	Text       string
	UpdateTime time.Time
}

// Result stores the results of a task that succeeded, as [Handle.Result] does, and
// returns the error of one that did not.
func (s *State) Result(dests ...any) error {
	switch {
	case s.Status == Success:
	case s.Status.Final():
		return s.Error
	default:
		return fmt.Errorf("penstock: task %s is %s and has no results", s.TaskID, s.Status)
	}
	if len(dests) == 0 {
		return nil
	}
	where := "task " + s.TaskID
	if len(dests) != len(s.Results) {
		return &ValueError{Where: where, Reason: fmt.Sprintf("returned %d results, not %d",
			len(s.Results), len(dests))}
	}
	for i, dest := range dests {
		if err := assign(dest, s.Results[i]); err != nil {
			return &ValueError{Where: fmt.Sprintf("result %d of %s", i+1, where), Reason: err.Error()}
		}
	}
	return nil
}

func newState(in *pb.TaskState) *State {
	out := &State{
		TaskID:          in.GetTaskId(),
		Name:            in.GetName(),
		Status:          statusOf(in.GetStatus()),
		CreateTime:      timeOf(in.GetCreateTime()),
		StartTime:       timeOf(in.GetStartTime()),
		FinishTime:      timeOf(in.GetFinishTime()),
		NextAttemptTime: timeOf(in.GetNextAttemptTime()),
		Attempt:         int(in.GetAttempt()),
		WorkerID:        in.GetWorkerId(),
		GroupID:         in.GetGroupId(),
		RawStatus:       in.GetRawStatus(),
	}
	if out.Status == Success {
		out.Results = make([]any, len(in.GetResults()))
		for i, result := range in.GetResults() {
			out.Results[i] = decode(result)
		}
	}
	if in.GetError() != nil || out.Status == Failure || out.Status == Cancelled {
		out.Error = &TaskError{
			TaskID:    in.GetTaskId(),
			Message:   in.GetError().GetMessage(),
			Type:      in.GetError().GetType(),
			Cancelled: out.Status == Cancelled,
		}
	}
	if progress := in.GetProgress(); progress != nil {
		out.Progress = &Progress{Fraction: progress.GetFraction(), Text: progress.GetText(),
			UpdateTime: timeOf(progress.GetUpdateTime())}
	}
	return out
}

// timeOf is the zero time where there is none.
func timeOf(in *timestamppb.Timestamp) time.Time {
	if in == nil {
		return time.Time{}
	}
	return in.AsTime()
}

// A Handle is a task that was sent. It is safe for use by many goroutines at once.
type Handle struct {
	// ID is the key of the task's state.
	ID string
	// Replayed: an equal task had been accepted under this id before; it runs once.
	Replayed bool

	client *Client
}

// Result waits for the task to end and stores its results where dests point to, one
// for each, or drops them where there are no dests. It returns a [*TaskError] when the
// task failed or was cancelled, and a [*ValueError] when the results do not fit: a
// whole number goes into any integer type that holds it, a float into a float without
// loss, text into a string, bytes into a []byte, a list into a slice, anything into an
// any. When ctx ends first, the task goes on, and the error wraps that of ctx.
func (h *Handle) Result(ctx context.Context, dests ...any) error {
	state, err := h.Wait(ctx)
	if err != nil {
		return err
	}
	return state.Result(dests...)
}

// Results is Result for results of any types: bool, int64, uint64, float64, string,
// []byte, []bool, []int64, []uint64, []float64 or []string, as the result's type is
// machinery's of that name or a narrower one.
func (h *Handle) Results(ctx context.Context) ([]any, error) {
	state, err := h.Wait(ctx)
	if err != nil {
		return nil, err
	}
	return state.Results, state.Result()
}

// Wait waits for the task to end, well or not. When ctx ends first, the error wraps
// that of ctx.
func (h *Handle) Wait(ctx context.Context) (*State, error) {
	what := "task " + h.ID
	return wait(ctx, what, func(ctx context.Context, wait time.Duration) (*State, bool, error) {
		state, err := h.read(ctx, wait)
		if err != nil {
			return nil, false, err
		}
		return state, state.Status.Final(), nil
	})
}

// State reads how the task stands.
func (h *Handle) State(ctx context.Context) (*State, error) { return h.read(ctx, 0) }

func (h *Handle) read(ctx context.Context, wait time.Duration) (*State, error) {
	request := &pb.GetStateRequest{TaskId: h.ID}
	timeout := h.client.options.callTimeout
	if wait > 0 {
		request.Wait = durationpb.New(wait)
		timeout = wait + waitMargin
	}
	var answer *pb.GetStateResponse
	if err := h.client.callWithin(ctx, timeout, wait > 0, func(ctx context.Context) (err error) {
		answer, err = h.client.gateway.GetState(ctx, request)
		return err
	}); err != nil {
		return nil, err
	}
	return newState(answer.GetState()), nil
}

// Watch is how the task stands now, and then each change that is seen, until it is
// final: quick changes may be skipped, the final one never. It goes on at another
// gateway when one goes away. The last pair may be an error, which also tells that ctx
// has ended.
//
//	for state, err := range task.Watch(ctx) {
func (h *Handle) Watch(ctx context.Context) iter.Seq2[*State, error] {
	return h.client.Watch(ctx, h.ID)
}

// Cancel ends the task unless it is final: it stands at CANCELLED from now on. What
// runs sees it within seconds. False: it was final already. The reason, of at most
// 1,000 bytes, is for people.
func (h *Handle) Cancel(ctx context.Context, reason string) (bool, error) {
	request := &pb.CancelTaskRequest{TaskId: h.ID, Reason: reason}
	var answer *pb.CancelTaskResponse
	err := h.client.call(ctx, func(ctx context.Context) (err error) {
		answer, err = h.client.gateway.CancelTask(ctx, request)
		return err
	})
	return answer.GetAccepted(), err
}

// wait calls read, which waits for as long as it is told, until it says that it is
// done. The error wraps that of ctx when ctx ended first.
func wait[T any](ctx context.Context, what string,
	read func(context.Context, time.Duration) (T, bool, error)) (T, error) {
	var none T
	over := func() (T, error) {
		return none, fmt.Errorf("penstock: waiting for %s: %w", what, context.Cause(ctx))
	}
	for {
		if ctx.Err() != nil {
			return over()
		}
		asked := longestWait
		if deadline, has := ctx.Deadline(); has {
			asked = min(asked, time.Until(deadline))
			if asked <= 0 {
				<-ctx.Done()
				return over()
			}
		}
		begin := time.Now()
		news, done, err := read(ctx, asked)
		switch {
		case err == nil && done:
			return news, nil
		case err != nil && ctx.Err() != nil:
			return over()
		case err != nil && ranOut(ctx, err):
			<-ctx.Done()
			return over()
		case err != nil:
			return none, err
		}
		// An answer that came early, of a gateway that stops or shortly before the
		// deadline, must not make a spinning loop.
		if time.Since(begin) < asked-waitPause || asked < waitPause {
			sleep(ctx, waitPause)
		}
	}
}

// ranOut is whether a call failed since ctx is about to end: the two clocks of one
// deadline need not agree to the millisecond.
func ranOut(ctx context.Context, err error) bool {
	deadline, has := ctx.Deadline()
	var failed *Error
	return has && time.Until(deadline) < waitPause && errors.As(err, &failed) &&
		failed.Code == codes.DeadlineExceeded
}

// Watch is [Handle.Watch] for 1 to 1,000 tasks at once; it ends when all are final.
func (c *Client) Watch(ctx context.Context, ids ...string) iter.Seq2[*State, error] {
	return func(yield func(*State, error) bool) {
		w := watch{client: c, ids: ids, last: map[string]*pb.TaskState{},
			retries: retries{budget: c.options.retryBudget}}
		for {
			err := w.follow(c.outgoing(ctx), func(state *pb.TaskState) bool {
				return yield(newState(state), nil)
			})
			if err == nil {
				return
			}
			if ctx.Err() != nil {
				yield(nil, fmt.Errorf("penstock: watching: %w", context.Cause(ctx)))
				return
			}
			if e := AsError(err); !w.retries.again(ctx, e) {
				yield(nil, e)
				return
			}
		}
	}
}

type watch struct {
	client  *Client
	ids     []string                 // which are not final
	last    map[string]*pb.TaskState // what was told of each
	retries retries
}

// follow tells what one stream says and was not told before. nil: all is told, or
// nobody listens any more.
func (w *watch) follow(ctx context.Context, tell func(*pb.TaskState) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(watchSilence, cancel)
	defer silence.Stop()
	begin := time.Now()
	stream, err := w.client.gateway.WatchState(ctx, &pb.WatchStateRequest{TaskIds: w.ids})
	if err != nil {
		return err
	}
	for {
		answer, err := stream.Recv()
		if err != nil {
			if len(w.ids) == 0 {
				return nil
			}
			return broken(err, silence)
		}
		silence.Reset(watchSilence)
		if time.Since(begin) > steady {
			w.retries.succeeded()
		}
		state := answer.GetState()
		if state == nil || proto.Equal(state, w.last[state.GetTaskId()]) {
			continue
		}
		w.retries.succeeded()
		w.last[state.GetTaskId()] = state
		if statusOf(state.GetStatus()).Final() {
			w.drop(state.GetTaskId())
		}
		if !tell(state) || len(w.ids) == 0 {
			return nil
		}
	}
}

func (w *watch) drop(id string) {
	var rest []string
	for _, other := range w.ids {
		if other != id {
			rest = append(rest, other)
		}
	}
	w.ids = rest
}

// broken is why a stream ended that should have gone on.
func broken(err error, silence *time.Timer) error {
	switch {
	case errors.Is(err, io.EOF):
		return status.Error(codes.Unavailable, "the stream ended too early")
	case !silence.Stop():
		return status.Errorf(codes.Unavailable, "the stream was silent for %v", watchSilence)
	}
	return err
}
