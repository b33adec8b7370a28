// A gRPC gateway over machinery: what a user would write instead of Penstock's.
// It serves SendTask and SendGroup of the same contract, so that the same client
// loads both.
package main

import (
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/RichardKnop/machinery/v2"
	"github.com/RichardKnop/machinery/v2/tasks"

	pb "penstock.dev/bench/penstockv1"
)

type gateway struct {
	pb.UnimplementedGatewayServiceServer
	server *machinery.Server
}

// signature knows the kinds of arguments that the bench sends.
func signature(task *pb.Task) (*tasks.Signature, error) {
	if task.GetName() == "" {
		return nil, status.Error(codes.InvalidArgument, "task.name: is required")
	}
	out := &tasks.Signature{
		UUID: task.GetId(), Name: task.GetName(), RoutingKey: task.GetRoutingKey(),
		RetryCount: int(task.GetRetryCount()), Priority: uint8(task.GetPriority()),
		Immutable: task.GetImmutable(),
	}
	for _, value := range task.GetArgs() {
		switch kind := value.GetKind().(type) {
		case *pb.Value_IntValue:
			out.Args = append(out.Args, tasks.Arg{Type: "int64", Value: kind.IntValue})
		case *pb.Value_StringValue:
			out.Args = append(out.Args, tasks.Arg{Type: "string", Value: kind.StringValue})
		default:
			return nil, status.Errorf(codes.InvalidArgument, "task.args: unknown kind %T", kind)
		}
	}
	if task.GetEta() != nil {
		eta := task.GetEta().AsTime()
		out.ETA = &eta
	}
	return out, nil
}

func unavailable(err error) error { return status.Error(codes.Unavailable, err.Error()) }

func (g *gateway) SendTask(ctx context.Context, request *pb.SendTaskRequest) (*pb.SendTaskResponse, error) {
	sig, err := signature(request.GetTask())
	if err != nil {
		return nil, err
	}
	result, err := g.server.SendTaskWithContext(ctx, sig)
	if err != nil {
		return nil, unavailable(err)
	}
	return &pb.SendTaskResponse{TaskId: result.Signature.UUID, CreateTime: timestamppb.Now()}, nil
}

func (g *gateway) SendGroup(ctx context.Context, request *pb.SendGroupRequest) (*pb.SendGroupResponse, error) {
	var sigs []*tasks.Signature
	for _, task := range request.GetTasks() {
		sig, err := signature(task)
		if err != nil {
			return nil, err
		}
		sigs = append(sigs, sig)
	}
	group, err := tasks.NewGroup(sigs...)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if _, err := g.server.SendGroupWithContext(ctx, group, int(request.GetSendConcurrency())); err != nil {
		return nil, unavailable(err)
	}
	return &pb.SendGroupResponse{GroupId: group.GroupUUID, TaskIds: group.GetUUIDs()}, nil
}

func serveGateway(o *options) error {
	server, err := newServer(o)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return err
	}
	service := grpc.NewServer()
	pb.RegisterGatewayServiceServer(service, &gateway{server: server})
	go func() {
		awaitSignal()
		service.Stop()
	}()
	return service.Serve(listener)
}
