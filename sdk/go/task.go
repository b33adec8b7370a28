package penstock

import (
	"context"
	"crypto/rand"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "penstock.dev/sdk/go/penstock/v1"
)

// A Task is what to run. Only Name is required; zero values stand for the defaults.
//
// An argument is a bool, a whole number, a float, a string, a []byte or a slice of
// these, or a [TypedValue]. It travels as machinery's type of the same name, but int as
// int64 and uint as uint64.
type Task struct {
	// Name is that under which a worker registered the handler. 1 to 255 bytes.
	Name string
	// Args are the arguments, in order. At most 1 MiB in all.
	Args []any

	// ID is the key of the task's state. Default: the gateway makes one. 1 to 200
	// characters of A-Z a-z 0-9 _ . : -
	ID string
	// RoutingKey says which queue. Default: the default queue. At most 255 bytes.
	RoutingKey string
	// ETA is when to run, at the earliest. Default: at once. Not with Delay.
	ETA time.Time
	// Delay is how long after it was accepted the task runs, at the earliest.
	Delay time.Duration

	// RetryCount is how many times a failed run is tried again. At most 1,000,000.
	RetryCount int
	// RetryDelay is how long the first retry waits, rounded up to a Fibonacci number
	// of seconds; each later one waits for the next such number. Default: 1 s, 2 s,
	// 3 s, 5 s, 8 s. At most 30 days.
	RetryDelay time.Duration
	// ExponentialBackoff is how long retries wait in place of RetryDelay's numbers.
	ExponentialBackoff *ExponentialBackoff

	// Priority is 0 to 255; higher is taken first, where the queue knows priorities.
	Priority uint32
	// Immutable: its results are not passed on to what follows it; the callback of a
	// chord takes none.
	Immutable bool
	// Headers travel with the task to the handler. At most 64, of at most 1 KiB each.
	Headers map[string]string

	// OnSuccess are sent when the task succeeded, each with its results after its own
	// arguments. In a chain only on the last link.
	OnSuccess []*Task
	// OnError are sent when the task failed for good, each with the text of the error
	// before its own arguments.
	OnError []*Task

	// IgnoreWhenTaskNotRegistered: a worker that has no handler of this name drops the
	// task, which ends in FAILURE, instead of passing it on to other workers.
	IgnoreWhenTaskNotRegistered bool
	// Timeout is how long one attempt may run. Default: without limit. 1 ms to 30 days.
	Timeout time.Duration
	// ExpireAfter: a task that has not begun so long after it was accepted ends in
	// FAILURE. Default: never. Longer than Delay, at most 10 years.
	ExpireAfter time.Duration
	// UniqueKey is a name of the business: while a task that was sent under it is not
	// final, another one is refused with [UniqueKeyHeld]. At most 200 bytes.
	UniqueKey string
	// ResultTTL is how long the final state can be read. Default: as the worker is
	// configured, mostly 1 hour. 1 s, in groups, chains and chords 1 hour, to 365 days.
	ResultTTL time.Duration
}

// ExponentialBackoff lets retries wait ever longer.
type ExponentialBackoff struct {
	FirstDelay time.Duration // the first pause; required, 1 ms to 30 days
	Factor     float64       // of each pause to the one before, 1 to 100; default 2
	MaxDelay   time.Duration // the longest pause; default 1 hour
	Jitter     float64       // the share of each pause that is random, 0 to 1
}

// NewTask is the task of a name with arguments.
func NewTask(name string, args ...any) *Task { return &Task{Name: name, Args: args} }

// A SendOption is about one call that sends.
type SendOption struct {
	name  string
	apply func(*sendOptions)
}

type sendOptions struct {
	requestID       string
	groupID         string
	sendConcurrency int
	onFailure       *Task
}

// RequestID names the call, so that it may be repeated after a restart of the client
// too: an equal call is not carried out again within 24 hours, and is answered as the
// first one was, with Replayed. Default: one that is made for each call. 1 to 200
// characters of A-Z a-z 0-9 _ . : -
func RequestID(id string) SendOption {
	return SendOption{"RequestID", func(o *sendOptions) { o.requestID = id }}
}

// GroupID is the id of the group of SendGroup or SendChord. Default: the gateway makes
// one.
func GroupID(id string) SendOption {
	return SendOption{"GroupID", func(o *sendOptions) { o.groupID = id }}
}

// SendConcurrency is how many messages of SendGroup or SendChord are sent at once.
// Default: without limit.
func SendConcurrency(n int) SendOption {
	return SendOption{"SendConcurrency", func(o *sendOptions) { o.sendConcurrency = n }}
}

// OnFailure is sent, by SendChord, in place of the callback when a member failed or was
// cancelled, with the text of why before its own arguments.
func OnFailure(task *Task) SendOption {
	return SendOption{"OnFailure", func(o *sendOptions) { o.onFailure = task }}
}

func readOptions(call string, given []SendOption, allowed ...string) (sendOptions, error) {
	o := sendOptions{requestID: newUUID()}
	for _, option := range given {
		known := option.name == "RequestID"
		for _, name := range allowed {
			known = known || option.name == name
		}
		if !known {
			return o, &ValueError{Where: call, Reason: "takes no option " + option.name}
		}
		option.apply(&o)
	}
	return o, nil
}

// Send sends the task of a name with arguments. [Client.SendTask] takes all that a task
// may have.
func (c *Client) Send(ctx context.Context, name string, args ...any) (*Handle, error) {
	return c.SendTask(ctx, NewTask(name, args...))
}

// SendTask sends a task. When it returns, the broker has the task.
func (c *Client) SendTask(ctx context.Context, task *Task, opts ...SendOption) (*Handle, error) {
	request, err := sendRequest("SendTask", task, opts)
	if err != nil {
		return nil, err
	}
	var answer *pb.SendTaskResponse
	if err := c.call(ctx, func(ctx context.Context) (err error) {
		answer, err = c.gateway.SendTask(ctx, request)
		return err
	}); err != nil {
		return nil, err
	}
	return &Handle{ID: answer.GetTaskId(), Replayed: answer.GetReplayed(), client: c}, nil
}

// Run sends a task and waits for it to end, well or not: SendTask and then
// [Handle.Wait], in one call where the end comes within 30 s. [State.Result] tells what
// came of it. When ctx ends first, the error wraps that of ctx, and the task goes on if
// it was sent.
func (c *Client) Run(ctx context.Context, task *Task, opts ...SendOption) (*State, error) {
	request, err := sendRequest("Run", task, opts)
	if err != nil {
		return nil, err
	}
	asked := longestWait
	if deadline, has := ctx.Deadline(); has {
		asked = max(0, min(asked, time.Until(deadline)))
	}
	request.Wait = durationpb.New(asked)
	var answer *pb.SendTaskResponse
	err = c.callWithin(ctx, asked+waitMargin, true, func(ctx context.Context) (err error) {
		answer, err = c.gateway.SendTask(ctx, request)
		return err
	})
	if err != nil && (ctx.Err() != nil || ranOut(ctx, err)) {
		<-ctx.Done()
		return nil, fmt.Errorf("penstock: running %s: %w", task.Name, context.Cause(ctx))
	} else if err != nil {
		return nil, err
	}
	if state := newState(answer.GetState()); state.Status.Final() {
		return state, nil
	}
	return c.Task(answer.GetTaskId()).Wait(ctx)
}

func sendRequest(call string, task *Task, opts []SendOption) (*pb.SendTaskRequest, error) {
	o, err := readOptions(call, opts)
	if err != nil {
		return nil, err
	}
	message, err := task.encode()
	if err != nil {
		return nil, err
	}
	return &pb.SendTaskRequest{Task: message, RequestId: o.requestID}, nil
}

// A ChainHandle is that of the last link of a chain, whose result is the chain's.
type ChainHandle struct {
	Handle
	Links []*Handle // all, in order
}

// SendChain sends tasks that run one after the other; each gets the results of the one
// before it after its own arguments, unless that one is immutable.
func (c *Client) SendChain(ctx context.Context, tasks []*Task, opts ...SendOption) (*ChainHandle, error) {
	o, err := readOptions("SendChain", opts)
	if err != nil {
		return nil, err
	}
	messages, err := encodeAll(tasks)
	if err != nil {
		return nil, err
	}
	request := &pb.SendChainRequest{Tasks: messages, RequestId: o.requestID}
	var answer *pb.SendChainResponse
	if err := c.call(ctx, func(ctx context.Context) (err error) {
		answer, err = c.gateway.SendChain(ctx, request)
		return err
	}); err != nil {
		return nil, err
	}
	links := c.handles(answer.GetTaskIds(), answer.GetReplayed())
	chain := &ChainHandle{Links: links}
	if len(links) > 0 {
		chain.Handle = *links[len(links)-1]
	}
	return chain, nil
}

func (c *Client) handles(ids []string, replayed bool) []*Handle {
	all := make([]*Handle, len(ids))
	for i, id := range ids {
		all[i] = &Handle{ID: id, Replayed: replayed, client: c}
	}
	return all
}

// encode is the task as a message; the error is a *ValueError.
func (t *Task) encode() (*pb.Task, error) {
	if t == nil {
		return nil, &ValueError{Where: "a task", Reason: "is nil"}
	}
	where := func(what string) string { return what + " of task " + t.Name }
	out := &pb.Task{
		Name:                        t.Name,
		Id:                          t.ID,
		RoutingKey:                  t.RoutingKey,
		RetryDelay:                  optional(t.RetryDelay),
		Priority:                    t.Priority,
		Immutable:                   t.Immutable,
		Headers:                     t.Headers,
		IgnoreWhenTaskNotRegistered: t.IgnoreWhenTaskNotRegistered,
		Timeout:                     optional(t.Timeout),
		ExpireAfter:                 optional(t.ExpireAfter),
		UniqueKey:                   t.UniqueKey,
		ResultTtl:                   optional(t.ResultTTL),
	}
	for i, arg := range t.Args {
		value, err := encode(arg)
		if err != nil {
			return nil, &ValueError{Where: where(fmt.Sprint("argument ", i+1)), Reason: err.Error()}
		}
		out.Args = append(out.Args, value)
	}
	switch {
	case !t.ETA.IsZero() && t.Delay != 0:
		return nil, &ValueError{Where: "task " + t.Name, Reason: "has an ETA and a Delay"}
	case !t.ETA.IsZero():
		out.Schedule = &pb.Task_Eta{Eta: timestamppb.New(t.ETA)}
	case t.Delay != 0:
		out.Schedule = &pb.Task_Delay{Delay: durationpb.New(t.Delay)}
	}
	if t.RetryCount < math.MinInt32 || t.RetryCount > math.MaxInt32 {
		return nil, &ValueError{Where: where("RetryCount"), Reason: fmt.Sprint(t.RetryCount, " is too many")}
	}
	out.RetryCount = int32(t.RetryCount)
	if backoff := t.ExponentialBackoff; backoff != nil {
		out.ExponentialBackoff = &pb.ExponentialBackoff{
			FirstDelay: optional(backoff.FirstDelay),
			Factor:     backoff.Factor,
			MaxDelay:   optional(backoff.MaxDelay),
			Jitter:     backoff.Jitter,
		}
	}
	var err error
	if out.OnSuccess, err = encodeAll(t.OnSuccess); err != nil {
		return nil, err
	}
	if out.OnError, err = encodeAll(t.OnError); err != nil {
		return nil, err
	}
	return out, nil
}

func encodeAll(tasks []*Task) ([]*pb.Task, error) {
	var all []*pb.Task
	for _, task := range tasks {
		message, err := task.encode()
		if err != nil {
			return nil, err
		}
		all = append(all, message)
	}
	return all, nil
}

// optional is nil, which is not set, for 0.
func optional(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

func newUUID() string {
	var id [16]byte
	rand.Read(id[:]) // never fails
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
