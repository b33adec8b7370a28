package penstock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "penstock.dev/sdk/go/penstock/v1"
)

func accepted(id string) *pb.SendTaskResult {
	return &pb.SendTaskResult{Outcome: &pb.SendTaskResult_TaskId{TaskId: id}}
}

func refused(err error) *pb.SendTaskResult {
	return &pb.SendTaskResult{Outcome: &pb.SendTaskResult_Status{Status: status.Convert(err).Proto()}}
}

func manyTasks(n int) []*Task {
	tasks := make([]*Task, n)
	for i := range tasks {
		tasks[i] = NewTask(fmt.Sprint(i))
	}
	return tasks
}

func TestManyTasksAreSentAThousandAtATime(t *testing.T) {
	fake := startFake(t)
	fake.onBatch = func(_ int, request *pb.BatchSendTasksRequest) (*pb.BatchSendTasksResponse, error) {
		answer := &pb.BatchSendTasksResponse{}
		for _, task := range request.Tasks {
			answer.Results = append(answer.Results, accepted("task "+task.Name))
		}
		return answer, nil
	}
	tasks := manyTasks(2500)
	tasks[7].Args = []any{nil}
	results, err := newTestClient(t, fake.address).SendMany(testContext(t), tasks, RequestID("r"))
	if err != nil || len(results) != 2500 {
		t.Fatal(len(results), err)
	}
	for i, result := range results {
		var refused *ValueError
		if i == 7 {
			if !errors.As(result.Err, &refused) || result.Task != nil {
				t.Error(result)
			}
		} else if result.Err != nil || result.Index != i || result.Task.ID != fmt.Sprint("task ", i) {
			t.Fatal(i, result)
		}
	}
	var got []string
	for _, batch := range seen(fake, &fake.batches) {
		got = append(got, fmt.Sprint(batch.RequestId, " ", len(batch.Tasks)))
	}
	if want := []string{"r 1000", "r.1 1000", "r.2 499"}; !slices.Equal(got, want) {
		t.Error(got)
	}
}

func TestTasksLeftOutOfABatchAreSentAgain(t *testing.T) {
	fake := startFake(t)
	fake.onBatch = func(n int, _ *pb.BatchSendTasksRequest) (*pb.BatchSendTasksResponse, error) {
		bad := refused(refuse(codes.InvalidArgument, InvalidField))
		switch n {
		case 0:
			return &pb.BatchSendTasksResponse{Results: []*pb.SendTaskResult{
				accepted("a"), bad, refused(refuse(codes.Unavailable, BrokerNack))}}, nil
		case 1:
			return nil, refuse(codes.Unavailable, BackendUnavailable)
		}
		return &pb.BatchSendTasksResponse{Results: []*pb.SendTaskResult{
			accepted("a"), bad, accepted("c")}}, nil
	}
	results, err := newTestClient(t, fake.address).SendMany(testContext(t), manyTasks(3))
	if err != nil {
		t.Fatal(err)
	}
	if results[0].Task.ID != "a" || !errors.Is(results[1].Err, InvalidField) || results[2].Task.ID != "c" {
		t.Error(results)
	}
	batches := seen(fake, &fake.batches)
	if len(batches) != 3 || batches[0].RequestId == "" || batches[2].RequestId != batches[0].RequestId {
		t.Error(batches)
	}
}

func TestABatchThatFailsKeepsWhatWasAccepted(t *testing.T) {
	fake := startFake(t)
	fake.onBatch = func(n int, _ *pb.BatchSendTasksRequest) (*pb.BatchSendTasksResponse, error) {
		if n > 0 {
			return nil, refuse(codes.Unavailable, Draining)
		}
		return &pb.BatchSendTasksResponse{Results: []*pb.SendTaskResult{
			accepted("a"), refused(refuse(codes.Unavailable, BrokerNack))}}, nil
	}
	client := newTestClient(t, fake.address, WithRetryBudget(200*time.Millisecond))
	results, _ := client.SendMany(testContext(t), manyTasks(2))
	if results[0].Task == nil || results[0].Task.ID != "a" || !errors.Is(results[1].Err, BrokerNack) {
		t.Error(results)
	}
}

// streams keeps the ids of every task that came over a stream, in order.
type streams struct {
	mu  sync.Mutex
	ids [][]string
}

// take reads a task of stream n; false: the stream has ended.
func (s *streams) take(n int, stream pb.GatewayService_StreamTasksServer) (*pb.StreamTasksRequest, bool) {
	request, err := stream.Recv()
	if err != nil {
		return nil, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, task := range tasksOf(request) {
		s.ids[n] = append(s.ids[n], task.Task.Id)
	}
	return request, true
}

func (s *streams) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids = append(s.ids, nil)
	return len(s.ids) - 1
}

func TestAStreamSendsNoMoreThanItsCredit(t *testing.T) {
	fake := startFake(t)
	var s streams
	var early []string
	fake.onStream = func(stream pb.GatewayService_StreamTasksServer) error {
		n := s.open()
		_ = stream.Send(&pb.StreamTasksResponse{Credit: 2})
		one, _ := s.take(n, stream)
		two, _ := s.take(n, stream)
		// A third one would be against the rules.
		third := make(chan *pb.StreamTasksRequest)
		go func() {
			request, _ := s.take(n, stream)
			third <- request
		}()
		select {
		case request := <-third:
			early = append(early, request.Task.Name)
		case <-time.After(200 * time.Millisecond):
		}
		_ = stream.Send(answerTo(two))
		request := <-third
		_ = stream.Send(answerTo(one))
		_ = stream.Send(answerTo(request))
		for {
			request, more := s.take(n, stream)
			if !more {
				return nil
			}
			_ = stream.Send(answerTo(request))
		}
	}
	var order []int
	client := newTestClient(t, fake.address)
	for result, err := range client.SendStream(testContext(t), slices.Values(manyTasks(50))) {
		if err != nil || result.Err != nil {
			t.Fatal(err, result.Err)
		}
		order = append(order, result.Index)
	}
	if len(order) != 50 || !slices.Equal(order[:4], []int{1, 0, 2, 3}) {
		t.Error(order)
	}
	if early != nil {
		t.Error("sent without credit: ", early)
	}
}

func TestTasksWithoutAnAnswerAreSentAgainUnderTheirIDs(t *testing.T) {
	fake := startFake(t)
	var s streams
	fake.onStream = func(stream pb.GatewayService_StreamTasksServer) error {
		n := s.open()
		_ = stream.Send(&pb.StreamTasksResponse{Credit: 10})
		for i := 0; ; i++ {
			request, more := s.take(n, stream)
			if !more {
				return nil
			}
			if n == 0 && i == 3 { // two are answered, two are not
				return refuse(codes.Unavailable, Draining)
			}
			if n == 0 && i == 1 {
				continue
			}
			_ = stream.Send(answerTo(request))
		}
	}
	ids := map[int]string{}
	tasks := manyTasks(20)
	tasks[1].ID = "my-own"
	client := newTestClient(t, fake.address)
	for result, err := range client.SendStream(testContext(t), slices.Values(tasks)) {
		if err != nil || result.Err != nil || ids[result.Index] != "" {
			t.Fatal(err, result)
		}
		ids[result.Index] = result.Task.ID
	}
	if len(ids) != 20 || ids[1] != "my-own" {
		t.Error(ids)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ids) != 2 || !slices.Equal(s.ids[1][:2], []string{"my-own", s.ids[0][3]}) || len(s.ids[1]) != 18 {
		t.Error(s.ids)
	}
}

func TestAStreamedTaskThatIsRefusedForNowComesAgain(t *testing.T) {
	fake := startFake(t)
	tries := map[string]int{}
	fake.onStream = func(stream pb.GatewayService_StreamTasksServer) error {
		_ = stream.Send(&pb.StreamTasksResponse{Credit: 10})
		for {
			request, err := stream.Recv()
			if err != nil {
				return nil
			}
			answer := answerTo(request)
			tries[request.Task.Name]++
			switch {
			case request.Task.Name == "1" && tries["1"] < 3:
				answer.Outcome = &pb.StreamTasksResponse_Status{
					Status: status.Convert(refuse(codes.Unavailable, BrokerNack)).Proto()}
			case request.Task.Name == "2":
				answer.Outcome = &pb.StreamTasksResponse_Status{
					Status: status.Convert(refuse(codes.InvalidArgument, InvalidField)).Proto()}
			}
			_ = stream.Send(answer)
		}
	}
	tasks := manyTasks(5)
	tasks[3].Args = []any{nil}
	got := make([]error, 5)
	for result, err := range newTestClient(t, fake.address).SendStream(testContext(t), slices.Values(tasks)) {
		if err != nil {
			t.Fatal(err)
		}
		got[result.Index] = result.Err
	}
	var value *ValueError
	if got[0] != nil || got[1] != nil || !errors.Is(got[2], InvalidField) || !errors.As(got[3], &value) || got[4] != nil {
		t.Error(got)
	}
	if tries["1"] != 3 || tries["2"] != 1 || tries["3"] != 0 {
		t.Error(tries)
	}
}

// readyTasks are tasks that come without a pause; the channel is closed once the first
// of them, as many as fit in a message, have been taken.
func readyTasks(tasks []*Task) (iter.Seq[*Task], <-chan struct{}) {
	ready := make(chan struct{})
	return func(yield func(*Task) bool) {
		for i, task := range tasks {
			if !yield(task) {
				return
			}
			if i+1 == min(len(tasks), 100) {
				close(ready)
			}
		}
	}, ready
}

func TestTasksThatAreReadyTogetherShareAMessage(t *testing.T) {
	for _, test := range []struct{ credit, maxTasks, first int }{
		{1000, 100, 100}, {1000, 7, 7}, {30, 100, 30}, {1000, 0, 1}, {1000, 1, 1},
	} {
		t.Run(fmt.Sprint(test), func(t *testing.T) {
			fake := startFake(t)
			tasks, ready := readyTasks(manyTasks(250))
			var sizes []int // kept by the one stream
			ended := make(chan struct{})
			fake.onStream = func(stream pb.GatewayService_StreamTasksServer) error {
				defer close(ended)
				<-ready
				_ = stream.Send(&pb.StreamTasksResponse{
					Credit: int32(test.credit), MaxTasks: int32(test.maxTasks)})
				for {
					request, err := stream.Recv()
					if err != nil {
						return nil
					}
					sizes = append(sizes, len(tasksOf(request)))
					answer := answerTo(request)
					for _, result := range answer.Results {
						result.Replayed = result.Sequence == 5
					}
					_ = stream.Send(answer)
				}
			}
			next := 0
			for result, err := range newTestClient(t, fake.address).SendStream(testContext(t), tasks) {
				if err != nil || result.Err != nil || result.Index != next ||
					!strings.HasPrefix(result.Task.ID, "task_") ||
					result.Task.Replayed != (next == 5 && test.maxTasks > 1) {
					t.Fatal(next, result, err)
				}
				next++
			}
			<-ended
			if next != 250 || sizes[0] != test.first || slices.Max(sizes) > max(1, test.maxTasks) {
				t.Error(next, sizes)
			}
		})
	}
}

func TestATaskDoesNotWaitForAMessageToFill(t *testing.T) {
	fake := startFake(t)
	fake.onStream = func(stream pb.GatewayService_StreamTasksServer) error {
		_ = stream.Send(&pb.StreamTasksResponse{Credit: 1000, MaxTasks: 100})
		for {
			request, err := stream.Recv()
			if err != nil {
				return nil
			}
			if request.Task == nil || len(request.Tasks) > 0 {
				return refuse(codes.Internal, "INTERNAL")
			}
			_ = stream.Send(answerTo(request))
		}
	}
	answered := make(chan struct{}, 1)
	oneByOne := func(yield func(*Task) bool) {
		for i := 0; i < 5 && yield(NewTask("add")); i++ {
			<-answered
		}
	}
	for result, err := range newTestClient(t, fake.address).SendStream(testContext(t), oneByOne) {
		if err != nil || result.Err != nil {
			t.Fatal(result.Err, err)
		}
		answered <- struct{}{}
	}
}

func TestAStreamOfSingleTasksDoesNotStayOne(t *testing.T) {
	fake := startFake(t)
	came := make(chan struct{})
	var sizes []int
	fake.onStream = func(stream pb.GatewayService_StreamTasksServer) error {
		_ = stream.Send(&pb.StreamTasksResponse{Credit: 50, MaxTasks: 100})
		var singles []*pb.StreamTasksRequest
		for {
			request, err := stream.Recv()
			if err != nil {
				return nil
			}
			if len(singles) == 50 {
				sizes = append(sizes, len(tasksOf(request)))
				_ = stream.Send(answerTo(request))
				continue
			}
			singles = append(singles, request)
			came <- struct{}{}
			if len(singles) == 50 { // they use up the credit
				for _, request := range singles {
					_ = stream.Send(answerTo(request))
				}
			}
		}
	}
	slowAtFirst := func(yield func(*Task) bool) {
		for i := 0; i < 100 && yield(NewTask("add")); i++ {
			if i < 50 {
				<-came
			}
		}
	}
	for result, err := range newTestClient(t, fake.address).SendStream(testContext(t), slowAtFirst) {
		if err != nil || result.Err != nil {
			t.Fatal(result.Err, err)
		}
		if result.Index == 0 {
			time.Sleep(200 * time.Millisecond) // the other answers come
		}
	}
	if len(sizes) > 10 { // one, were it not for a slow machine
		t.Error(sizes)
	}
}

func TestLargeTasksShareNoMessage(t *testing.T) {
	fake := startFake(t)
	large := manyTasks(5)
	for _, task := range large {
		task.Args = []any{strings.Repeat("x", 400<<10)}
	}
	tasks, ready := readyTasks(large)
	var sizes []int
	fake.onStream = func(stream pb.GatewayService_StreamTasksServer) error {
		<-ready
		_ = stream.Send(&pb.StreamTasksResponse{Credit: 1000, MaxTasks: 100})
		for {
			request, err := stream.Recv()
			if err != nil {
				return nil
			}
			sizes = append(sizes, len(tasksOf(request)))
			_ = stream.Send(answerTo(request))
		}
	}
	for result, err := range newTestClient(t, fake.address).SendStream(testContext(t), tasks) {
		if err != nil || result.Err != nil {
			t.Fatal(result.Err, err)
		}
	}
	if !slices.Equal(sizes, []int{2, 2, 1}) {
		t.Error(sizes)
	}
}

func TestAStreamThatBreaksAmidSeveralTasksGoesOn(t *testing.T) {
	fake := startFake(t)
	var s streams
	tasks, ready := readyTasks(manyTasks(150))
	largest := make([]int, 2)
	fake.onStream = func(stream pb.GatewayService_StreamTasksServer) error {
		n := s.open()
		<-ready
		first := &pb.StreamTasksResponse{Credit: 100}
		if n == 0 { // the next gateway is an old one
			first.MaxTasks = 20
		}
		_ = stream.Send(first)
		for i := 0; ; i++ {
			request, more := s.take(n, stream)
			if !more {
				return nil
			}
			largest[n] = max(largest[n], len(tasksOf(request)))
			if n == 0 && i == 3 { // of 80 tasks, 40 are answered
				return refuse(codes.Unavailable, Draining)
			}
			if n > 0 || i == 0 || i == 2 {
				_ = stream.Send(answerTo(request))
			}
		}
	}
	ids := map[int]string{}
	for result, err := range newTestClient(t, fake.address).SendStream(testContext(t), tasks) {
		if err != nil || result.Err != nil || ids[result.Index] != "" {
			t.Fatal(err, result)
		}
		ids[result.Index] = result.Task.ID
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(ids) != 150 || len(s.ids) != 2 || !slices.Equal(largest, []int{20, 1}) {
		t.Fatal(len(ids), len(s.ids), largest)
	}
	again := slices.Concat(s.ids[0][20:40], s.ids[0][60:80])
	if len(s.ids[1]) != 110 || !slices.Equal(s.ids[1][:40], again) {
		t.Error(s.ids)
	}
}

func TestOfSeveralTasksOnlyTheRefusedComeAgain(t *testing.T) {
	fake := startFake(t)
	tasks, ready := readyTasks(manyTasks(6))
	tries := map[string]int{}
	fake.onStream = func(stream pb.GatewayService_StreamTasksServer) error {
		<-ready
		_ = stream.Send(&pb.StreamTasksResponse{Credit: 10, MaxTasks: 100})
		for {
			request, err := stream.Recv()
			if err != nil {
				return nil
			}
			answer := answerTo(request)
			for i, task := range tasksOf(request) {
				tries[task.Task.Name]++
				switch name := task.Task.Name; {
				case (name == "1" || name == "4") && tries[name] == 1:
					answer.Results[i].Outcome = &pb.StreamTaskResult_Status{Status: status.Convert(
						refuse(codes.Unavailable, BrokerNack, retryAfter(200*time.Millisecond))).Proto()}
				case name == "2":
					answer.Results[i].Outcome = &pb.StreamTaskResult_Status{Status: status.Convert(
						refuse(codes.InvalidArgument, InvalidField)).Proto()}
				}
			}
			_ = stream.Send(answer)
		}
	}
	var order []int
	for result, err := range newTestClient(t, fake.address).SendStream(testContext(t), tasks) {
		if err != nil || errors.Is(result.Err, InvalidField) != (result.Index == 2) {
			t.Fatal(result, err)
		}
		order = append(order, result.Index)
	}
	if len(order) != 6 || !slices.Equal(order[:4], []int{0, 2, 3, 5}) {
		t.Error(order)
	}
	if tries["0"] != 1 || tries["1"] != 2 || tries["2"] != 1 || tries["4"] != 2 {
		t.Error(tries)
	}
}

func TestALongStreamOutlivesItsConnections(t *testing.T) {
	shortSteady(t)
	fake := startFake(t)
	fake.onStream = func(stream pb.GatewayService_StreamTasksServer) error {
		_ = stream.Send(&pb.StreamTasksResponse{Credit: 10})
		ended := make(chan error)
		go func() {
			for {
				request, err := stream.Recv()
				if err != nil {
					ended <- nil
					return
				}
				_ = stream.Send(answerTo(request))
			}
		}()
		select {
		case err := <-ended:
			return err
		case <-time.After(200 * time.Millisecond):
			go func() { <-ended }()
			return refuse(codes.Unavailable, Draining)
		}
	}
	slowly := func(yield func(*Task) bool) {
		for range 2 {
			if !yield(NewTask("add")) {
				return
			}
			time.Sleep(time.Second)
		}
	}
	client := newTestClient(t, fake.address, WithRetryBudget(100*time.Millisecond))
	accepted := 0
	for result, err := range client.SendStream(testContext(t), slowly) {
		if err != nil || result.Err != nil {
			t.Fatal(result.Err, err)
		}
		accepted++
	}
	if accepted != 2 {
		t.Error(accepted)
	}
}

func TestAStreamThatCannotGoOnSaysSo(t *testing.T) {
	fake := startFake(t)
	fake.onStream = func(stream pb.GatewayService_StreamTasksServer) error {
		_ = stream.Send(&pb.StreamTasksResponse{Credit: 10})
		_, _ = stream.Recv()
		return refuse(codes.Internal, "INTERNAL")
	}
	var failures []error
	for result, err := range newTestClient(t, fake.address).SendStream(testContext(t), endless()) {
		failures = append(failures, result.Err, err)
		if len(failures) > 100 {
			break
		}
	}
	if n := len(failures); n < 4 || failures[0] == nil || failures[n-1] == nil || failures[n-2] != nil {
		t.Error(failures)
	}
}

func endless() iter.Seq[*Task] {
	return func(yield func(*Task) bool) {
		for i := 0; i < 3 && yield(NewTask("add", i)); i++ {
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestBreakingOffAStreamEndsIt(t *testing.T) {
	fake := startFake(t)
	ended := make(chan struct{})
	fake.onStream = func(stream pb.GatewayService_StreamTasksServer) error {
		defer close(ended)
		_ = stream.Send(&pb.StreamTasksResponse{Credit: 5})
		for {
			request, err := stream.Recv()
			if err != nil {
				return err
			}
			_ = stream.Send(answerTo(request))
		}
	}
	for range newTestClient(t, fake.address).SendStream(testContext(t), slices.Values(manyTasks(100))) {
		break
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the stream goes on")
	}
}

func TestAStreamEndsWithItsContext(t *testing.T) {
	fake := startFake(t)
	// The gateway knows the deadline too, and must not be the first to act on it.
	ended := make(chan struct{})
	t.Cleanup(func() { close(ended) })
	fake.onStream = func(pb.GatewayService_StreamTasksServer) error {
		<-ended
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	var got []error
	for result, err := range newTestClient(t, fake.address).SendStream(ctx, slices.Values(manyTasks(3))) {
		got = append(got, cmp.Or(result.Err, err))
	}
	// Those that were never sent have it too.
	if len(got) != 4 || slices.ContainsFunc(got, func(err error) bool { return !errors.Is(err, context.DeadlineExceeded) }) {
		t.Error(got)
	}
}
