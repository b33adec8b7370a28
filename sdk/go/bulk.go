package penstock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "penstock.dev/sdk/go/penstock/v1"
)

const (
	// What one BatchSendTasks takes, and a size that is well below its limit.
	batchTasks = 1000
	batchBytes = 16 << 20

	// 100 tasks may exceed what the gateway takes, and so much in one message is no
	// cheaper than in several.
	streamBytes = 1 << 20

	// So many tasks, and answers, wait for the sender of a stream, which finds those that
	// are ready together.
	readAhead = 100

	closePatience = 2 * time.Second
)

// A SendResult is what became of one task of many.
type SendResult struct {
	// Index is the place of the task among those that were sent, from 0.
	Index int
	// Task is the task, if it was accepted.
	Task *Handle
	// Err says why it was not: an [*Error], or a [*ValueError].
	Err error
}

// SendMany sends tasks that have nothing to do with each other, 1,000 in a call, for a
// fraction of what as many SendTasks cost. Each has a result of its own, in the order
// of the tasks. What may pass is repeated, see [WithRetryBudget]. Options: [RequestID],
// which with more than one call has ".1", ".2" and so on after it in the later ones.
func (c *Client) SendMany(ctx context.Context, tasks []*Task, opts ...SendOption) ([]SendResult, error) {
	o, err := readOptions("SendMany", opts)
	if err != nil {
		return nil, err
	}
	results := make([]SendResult, len(tasks))
	request := &pb.BatchSendTasksRequest{RequestId: o.requestID}
	var indexes []int // of the tasks of request
	calls, bytes := 0, 0
	send := func() {
		if len(indexes) == 0 {
			return
		}
		c.sendBatch(ctx, request, indexes, results)
		calls++
		request = &pb.BatchSendTasksRequest{RequestId: o.requestID + "." + strconv.Itoa(calls)}
		indexes, bytes = nil, 0
	}
	for i, task := range tasks {
		results[i].Index = i
		message, err := task.encode()
		if err != nil {
			results[i].Err = err
			continue
		}
		size := proto.Size(message)
		if len(indexes) == batchTasks || bytes+size > batchBytes {
			send()
		}
		request.Tasks = append(request.Tasks, message)
		indexes = append(indexes, i)
		bytes += size
	}
	send()
	return results, nil
}

// sendBatch makes one call and fills in the results of its tasks.
func (c *Client) sendBatch(ctx context.Context, request *pb.BatchSendTasksRequest,
	indexes []int, results []SendResult) {
	var answer *pb.BatchSendTasksResponse
	err := c.call(ctx, func(ctx context.Context) error {
		news, err := c.gateway.BatchSendTasks(ctx, request)
		if err != nil {
			return err
		}
		if len(news.GetResults()) != len(indexes) {
			return grpcstatus.Error(codes.Internal, "the gateway answered for other tasks")
		}
		answer = news
		// The same call again sends those that were left out, and no other.
		for _, result := range news.GetResults() {
			if e := refusal(result.GetStatus()); e != nil && e.mayPass() {
				return e
			}
		}
		return nil
	})
	for i, index := range indexes {
		if answer == nil {
			results[index].Err = err
			continue
		}
		result := answer.GetResults()[i]
		results[index].fill(c, result.GetTaskId(), result.GetReplayed(), refusal(result.GetStatus()))
	}
}

func (r *SendResult) fill(c *Client, id string, replayed bool, refused *Error) {
	if refused != nil {
		r.Err = refused
	} else {
		r.Task = &Handle{ID: id, Replayed: replayed, client: c}
	}
}

// refusal is nil where there is none.
func refusal(s *status.Status) *Error {
	if s == nil {
		return nil
	}
	return fromStatus(grpcstatus.FromProto(s))
}

// SendStream sends tasks as they come, over one stream, and tells of each when it was
// accepted or refused, in the order in which that happens: SendResult.Index says which.
// The iterator of the tasks runs in a goroutine of its own and is at most 100 tasks
// ahead of what the gateway takes. Tasks get ids of the client's own, so that those
// which have no answer when the stream breaks are sent again, once in effect. What may
// pass is repeated, see [WithRetryBudget].
//
// When the stream cannot go on, or ctx ends, the tasks under way have that error, and
// the last pair has it alone. To break off the loop ends the stream; tasks under way
// may have been sent.
//
//	for result, err := range client.SendStream(ctx, slices.Values(tasks)) {
func (c *Client) SendStream(ctx context.Context, tasks iter.Seq[*Task]) iter.Seq2[SendResult, error] {
	return func(yield func(SendResult, error) bool) {
		ctx, cancel := context.WithCancel(c.outgoing(ctx))
		defer cancel()
		incoming := make(chan *Task, readAhead)
		go func() {
			defer close(incoming)
			for task := range tasks {
				select {
				case incoming <- task:
				case <-ctx.Done():
					return
				}
			}
		}()
		s := &sending{client: c, incoming: incoming, again: make(chan int64, readAhead),
			ended: ctx.Done(), pending: map[int64]*streamed{}, yield: yield}
		s.run(ctx)
	}
}

// streamed is a task that has no answer yet.
type streamed struct {
	task    *pb.Task
	retries retries
	paused  bool // it is to be sent again, later
}

// sending is the work of one SendStream, done by its caller's goroutine.
type sending struct {
	client   *Client
	incoming <-chan *Task // nil: all have come
	ended    <-chan struct{}
	next     int // index of the next that comes
	pending  map[int64]*streamed
	again    chan int64 // whose pause is over
	queue    []int64    // to be sent before what comes
	yield    func(SendResult, error) bool
	heard    bool // this stream's gateway has said something
}

// errStopped: nobody listens any more.
var errStopped = errors.New("stopped")

func (s *sending) run(ctx context.Context) {
	retries := retries{budget: s.client.options.retryBudget}
	for {
		begin := time.Now()
		s.heard = false
		err := s.one(ctx, &retries)
		if s.heard && time.Since(begin) > steady {
			retries.succeeded()
		}
		if err == nil || err == errStopped {
			return
		}
		var fatal error
		if ctx.Err() != nil {
			fatal = fmt.Errorf("penstock: sending a stream: %w", context.Cause(ctx))
		} else if e := AsError(err); !retries.again(ctx, e) {
			fatal = e
		}
		if fatal == nil {
			continue
		}
		// Those that were read ahead are under way too.
		for range len(s.incoming) {
			if !s.add(<-s.incoming) {
				return
			}
		}
		for _, index := range s.unanswered(true) {
			if !s.yield(SendResult{Index: int(index), Err: fatal}, nil) {
				return
			}
		}
		s.yield(SendResult{}, fatal)
		return
	}
}

// unanswered are the tasks that have no answer, in order, with or without those that
// pause.
func (s *sending) unanswered(paused bool) []int64 {
	var all []int64
	for index, task := range s.pending {
		if paused || !task.paused {
			all = append(all, index)
		}
	}
	slices.Sort(all)
	return all
}

// one sends over one stream. nil: all tasks have come and are answered.
func (s *sending) one(ctx context.Context, retries *retries) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.client.gateway.StreamTasks(ctx)
	if err != nil {
		return err
	}
	answers := make(chan *pb.StreamTasksResponse, readAhead)
	var broke error // why answers is closed
	go func() {
		defer close(answers)
		for {
			answer, err := stream.Recv()
			if err != nil {
				broke = err
				return
			}
			select {
			case answers <- answer:
			case <-ctx.Done():
				broke = ctx.Err()
				return
			}
		}
	}()

	s.queue = s.unanswered(false)
	credit := 0
	most := 1 // tasks of a message
	for s.incoming != nil || len(s.pending) > 0 {
		limit := min(credit, most)
		incoming, told := s.incoming, answers
		switch {
		case len(s.queue) < limit && len(incoming)+len(s.again) > 0:
			told = nil // first what the message still has room for
		// Where credit is the limit, answers that are here bring more: else a stream of
		// single tasks would stay one.
		case limit > 0 && len(s.queue) > 0 && (credit >= most || len(answers) == 0):
			credit -= s.send(stream, limit)
			continue
		case credit <= len(s.queue):
			incoming = nil
		}
		select {
		case task, more := <-incoming:
			if !more {
				s.incoming = nil
				continue
			}
			if !s.add(task) {
				return errStopped
			}
		case index := <-s.again:
			s.pending[index].paused = false
			s.queue = append(s.queue, index)
		case answer, more := <-told:
			if !more {
				if errors.Is(broke, io.EOF) {
					return grpcstatus.Error(codes.Unavailable, "the stream ended too early")
				}
				return broke
			}
			if !s.heard {
				most = max(1, int(answer.GetMaxTasks()))
			}
			s.heard = true
			credit += int(answer.GetCredit())
			var outcomes []outcome
			if answer.GetOutcome() != nil {
				outcomes = append(outcomes, answer)
			}
			for _, result := range answer.GetResults() {
				outcomes = append(outcomes, result)
			}
			for _, outcome := range outcomes {
				retries.succeeded()
				if !s.answered(outcome) {
					return errStopped
				}
			}
		}
	}
	// The gateway ends the stream in its turn; nothing depends on it.
	if stream.CloseSend() == nil {
		defer time.AfterFunc(closePatience, cancel).Stop()
		for range answers {
		}
	}
	return nil
}

// add takes up a task that came; false: nobody listens any more.
func (s *sending) add(task *Task) bool {
	index := s.next
	s.next++
	message, err := task.encode()
	if err != nil {
		return s.yield(SendResult{Index: index, Err: err}, nil)
	}
	if message.Id == "" {
		message.Id = "task_" + newUUID()
	}
	s.pending[int64(index)] = &streamed{task: message,
		retries: retries{budget: s.client.options.retryBudget}}
	s.queue = append(s.queue, int64(index))
	return true
}

// send writes tasks of the queue, at most limit, in one message; how many. What goes
// wrong is told by the stream's answers.
func (s *sending) send(stream grpc.ClientStream, limit int) int {
	var tasks []*pb.StreamTask
	bytes := 0
	for len(s.queue) > 0 && len(tasks) < limit {
		index := s.queue[0]
		if task, ok := s.pending[index]; ok {
			bytes += proto.Size(task.task)
			if len(tasks) > 0 && bytes > streamBytes {
				break
			}
			tasks = append(tasks, &pb.StreamTask{Sequence: index, Task: task.task})
		}
		s.queue = s.queue[1:]
	}
	switch len(tasks) {
	case 0:
	case 1:
		_ = stream.SendMsg(&pb.StreamTasksRequest{Sequence: tasks[0].Sequence, Task: tasks[0].Task})
	default:
		_ = stream.SendMsg(&pb.StreamTasksRequest{Tasks: tasks})
	}
	return len(tasks)
}

// outcome is a StreamTasksResponse or one of its results.
type outcome interface {
	GetSequence() int64
	GetTaskId() string
	GetStatus() *status.Status
	GetReplayed() bool
}

// answered tells what became of a task, or has it sent again later; false: nobody
// listens any more.
func (s *sending) answered(answer outcome) bool {
	index := answer.GetSequence()
	task, ok := s.pending[index]
	if !ok || task.paused {
		return true
	}
	refused := refusal(answer.GetStatus())
	if refused != nil {
		if pause, ok := task.retries.next(refused); ok {
			task.paused = true
			time.AfterFunc(pause, func() {
				select {
				case s.again <- index:
				case <-s.ended:
				}
			})
			return true
		}
	}
	delete(s.pending, index)
	result := SendResult{Index: int(index)}
	result.fill(s.client, answer.GetTaskId(), answer.GetReplayed(), refused)
	return s.yield(result, nil)
}
