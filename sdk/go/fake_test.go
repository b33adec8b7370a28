package penstock

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "penstock.dev/sdk/go/penstock/v1"
)

// fakeGateway answers as the test says, and keeps what it was asked.
type fakeGateway struct {
	pb.UnimplementedGatewayServiceServer
	address string

	mu       sync.Mutex
	sends    []*pb.SendTaskRequest
	metadata []metadata.MD // of sends
	batches  []*pb.BatchSendTasksRequest
	watches  []*pb.WatchStateRequest
	reads    []*pb.GetStateRequest

	sendState *pb.TaskState // with the answer to a send

	// Each is told how many calls came before.
	onSend   func(n int) error
	onBatch  func(n int, request *pb.BatchSendTasksRequest) (*pb.BatchSendTasksResponse, error)
	onRead   func(ctx context.Context, n int, request *pb.GetStateRequest) (*pb.TaskState, error)
	onWatch  func(n int, send func(*pb.TaskState)) error // send(nil): a keepalive
	onStream func(stream pb.GatewayService_StreamTasksServer) error
}

func startFake(t *testing.T, opts ...grpc.ServerOption) *fakeGateway {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fake := &fakeGateway{address: listener.Addr().String()}
	server := grpc.NewServer(opts...)
	pb.RegisterGatewayServiceServer(server, fake)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return fake
}

func newTestClient(t *testing.T, address string, opts ...Option) *Client {
	t.Helper()
	client, err := NewClient(address, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// shortSteady lets streams count as steady after 100 ms.
func shortSteady(t *testing.T) {
	before := steady
	steady = 100 * time.Millisecond
	t.Cleanup(func() { steady = before })
}

// refuse is an error with details, as a gateway makes them.
func refuse(code codes.Code, reason Reason, details ...protoadapt.MessageV1) error {
	s := status.New(code, "told by the test")
	details = append(details, &errdetails.ErrorInfo{Domain: "penstock.dev", Reason: string(reason),
		Metadata: map[string]string{"task_id": "other"}})
	s, err := s.WithDetails(details...)
	if err != nil {
		panic(err)
	}
	return s.Err()
}

func retryAfter(delay time.Duration) protoadapt.MessageV1 {
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(delay)}
}

// seen is what a fake has kept.
func seen[T any](fake *fakeGateway, list *[]T) []T {
	fake.mu.Lock()
	defer fake.mu.Unlock()
	return append([]T(nil), *list...)
}

func (f *fakeGateway) SendTask(ctx context.Context, in *pb.SendTaskRequest) (*pb.SendTaskResponse, error) {
	f.mu.Lock()
	n := len(f.sends)
	f.sends = append(f.sends, in)
	md, _ := metadata.FromIncomingContext(ctx)
	f.metadata = append(f.metadata, md)
	f.mu.Unlock()
	if f.onSend != nil {
		if err := f.onSend(n); err != nil {
			return nil, err
		}
	}
	return &pb.SendTaskResponse{TaskId: "task_1", State: f.sendState}, nil
}

func (f *fakeGateway) BatchSendTasks(_ context.Context, in *pb.BatchSendTasksRequest) (*pb.BatchSendTasksResponse, error) {
	f.mu.Lock()
	n := len(f.batches)
	f.batches = append(f.batches, in)
	f.mu.Unlock()
	return f.onBatch(n, in)
}

func (f *fakeGateway) GetState(ctx context.Context, in *pb.GetStateRequest) (*pb.GetStateResponse, error) {
	f.mu.Lock()
	n := len(f.reads)
	f.reads = append(f.reads, in)
	f.mu.Unlock()
	state, err := f.onRead(ctx, n, in)
	return &pb.GetStateResponse{State: state}, err
}

func (f *fakeGateway) WatchState(in *pb.WatchStateRequest, stream pb.GatewayService_WatchStateServer) error {
	f.mu.Lock()
	n := len(f.watches)
	f.watches = append(f.watches, in)
	f.mu.Unlock()
	return f.onWatch(n, func(state *pb.TaskState) {
		if state == nil {
			_ = stream.Send(&pb.WatchStateResponse{Event: &pb.WatchStateResponse_Keepalive{}})
			return
		}
		_ = stream.Send(&pb.WatchStateResponse{Event: &pb.WatchStateResponse_State{State: state}})
	})
}

func (f *fakeGateway) StreamTasks(stream pb.GatewayService_StreamTasksServer) error {
	return f.onStream(stream)
}

// tasksOf are the tasks of a message.
func tasksOf(request *pb.StreamTasksRequest) []*pb.StreamTask {
	if len(request.Tasks) > 0 {
		return request.Tasks
	}
	return []*pb.StreamTask{{Sequence: request.Sequence, Task: request.Task}}
}

// answerTo accepts the tasks of a message.
func answerTo(request *pb.StreamTasksRequest) *pb.StreamTasksResponse {
	if len(request.Tasks) == 0 {
		return &pb.StreamTasksResponse{Sequence: request.Sequence, Credit: 1,
			Outcome: &pb.StreamTasksResponse_TaskId{TaskId: request.Task.Id}}
	}
	answer := &pb.StreamTasksResponse{Credit: int32(len(request.Tasks))}
	for _, task := range request.Tasks {
		answer.Results = append(answer.Results, &pb.StreamTaskResult{Sequence: task.Sequence,
			Outcome: &pb.StreamTaskResult_TaskId{TaskId: task.Task.Id}})
	}
	return answer
}
