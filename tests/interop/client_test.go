// Two clients behind one face: a Go client, and one of Penstock's gateway. Both
// send the same signatures and read the same outcomes.
package interop

import (
	"context"
	"fmt"
	"math"
	"reflect"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/RichardKnop/machinery/v2/tasks"

	pb "penstock.dev/interop/penstockv1"
)

// outcome is how a task ended: its results, or the text of its error.
type outcome struct {
	results []any
	err     string
}

// future waits for an outcome.
type future func() outcome

type client interface {
	name() string
	send(t *testing.T, sig *Sig) future
	sendChain(t *testing.T, links []*Sig) future
	sendGroup(t *testing.T, members []*Sig, concurrency int)
	sendChord(t *testing.T, members []*Sig, callback *Sig, concurrency int) future
	// await is for tasks that another one set off, or another client.
	await(t *testing.T, id string) outcome
}

func arg(kind string, value any) tasks.Arg { return tasks.Arg{Type: kind, Value: value} }

// task has an int64 argument for each int and a string argument for each string.
func task(name string, args ...any) *Sig {
	sig := &Sig{UUID: newID("task_"), Name: name}
	for _, value := range args {
		switch v := value.(type) {
		case int:
			sig.Args = append(sig.Args, arg("int64", int64(v)))
		case string:
			sig.Args = append(sig.Args, arg("string", v))
		case tasks.Arg:
			sig.Args = append(sig.Args, v)
		default:
			panic(fmt.Sprintf("%T", value))
		}
	}
	return sig
}

func check(t *testing.T, what string, got outcome, want ...any) {
	t.Helper()
	if got.err != "" {
		t.Errorf("%s: failed: %s", what, got.err)
		return
	}
	if len(got.results) != len(want) {
		t.Errorf("%s: got %d results, want %d: %v", what, len(got.results), len(want), got.results)
		return
	}
	for i := range want {
		if !reflect.DeepEqual(got.results[i], want[i]) {
			t.Errorf("%s: result %d: got %T %v, want %T %v", what, i,
				got.results[i], got.results[i], want[i], want[i])
		}
	}
}

func checkError(t *testing.T, what string, got outcome, want string) {
	t.Helper()
	if got.err != want || got.results != nil {
		t.Errorf("%s: got %v, error %q; want error %q", what, got.results, got.err, want)
	}
}

// ---- the Go client

type goClient struct{ m machinery }

func (c goClient) name() string { return "from-go" }

// How often states are read; machinery has no other way to wait.
const pollPause = 10 * time.Millisecond

func get(result getter) outcome {
	values, err := result.GetWithTimeout(testLimit, pollPause)
	if err != nil {
		return outcome{err: err.Error()}
	}
	out := outcome{results: []any{}}
	for _, value := range values {
		out.results = append(out.results, value.Interface())
	}
	return out
}

func sent(t *testing.T, result getter, err error) future {
	t.Helper()
	if err != nil {
		t.Fatal("sending: ", err)
	}
	return func() outcome { return get(result) }
}

func (c goClient) send(t *testing.T, sig *Sig) future {
	t.Helper()
	result, err := c.m.sendTask(sig)
	return sent(t, result, err)
}

func (c goClient) sendChain(t *testing.T, links []*Sig) future {
	t.Helper()
	result, err := c.m.sendChain(links)
	return sent(t, result, err)
}

func (c goClient) sendGroup(t *testing.T, members []*Sig, concurrency int) {
	t.Helper()
	if err := c.m.sendGroup(members, concurrency); err != nil {
		t.Fatal("sending: ", err)
	}
}

func (c goClient) sendChord(t *testing.T, members []*Sig, callback *Sig, concurrency int) future {
	t.Helper()
	result, err := c.m.sendChord(members, callback, concurrency)
	return sent(t, result, err)
}

func (c goClient) await(_ *testing.T, id string) outcome { return get(c.m.result(id)) }

// ---- the gateway's client

type gatewayClient struct{ conn *grpc.ClientConn }

func (c gatewayClient) name() string { return "from-gateway" }

func (c gatewayClient) call(method string, request, response proto.Message) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*testLimit)
	defer cancel()
	return c.conn.Invoke(ctx, "/penstock.v1.GatewayService/"+method, request, response)
}

// mustCall repeats what a client is told to repeat: all ids are its own.
func (c gatewayClient) mustCall(t *testing.T, method string, request, response proto.Message) {
	t.Helper()
	err := c.call(method, request, response)
	for tries := 1; status.Code(err) == codes.Unavailable && tries < 5; tries++ {
		time.Sleep(time.Second)
		err = c.call(method, request, response)
	}
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
}

func (c gatewayClient) send(t *testing.T, sig *Sig) future {
	t.Helper()
	c.mustCall(t, "SendTask", &pb.SendTaskRequest{Task: toTask(sig)}, &pb.SendTaskResponse{})
	return func() outcome { return c.await(t, sig.UUID) }
}

func (c gatewayClient) sendChain(t *testing.T, links []*Sig) future {
	t.Helper()
	c.mustCall(t, "SendChain", &pb.SendChainRequest{Tasks: toTasks(links)}, &pb.SendChainResponse{})
	return func() outcome { return c.await(t, links[len(links)-1].UUID) }
}

func (c gatewayClient) sendGroup(t *testing.T, members []*Sig, concurrency int) {
	t.Helper()
	group := newID("group_")
	for _, member := range members {
		member.GroupUUID = group
	}
	c.mustCall(t, "SendGroup", &pb.SendGroupRequest{Tasks: toTasks(members), GroupId: group,
		SendConcurrency: int32(concurrency)}, &pb.SendGroupResponse{})
}

func (c gatewayClient) sendChord(t *testing.T, members []*Sig, callback *Sig, concurrency int) future {
	t.Helper()
	group := newID("group_")
	for _, member := range members {
		member.GroupUUID = group
	}
	c.mustCall(t, "SendChord", &pb.SendChordRequest{Tasks: toTasks(members), GroupId: group,
		Callback: toTask(callback), SendConcurrency: int32(concurrency)}, &pb.SendChordResponse{})
	return func() outcome { return c.await(t, callback.UUID) }
}

func (c gatewayClient) await(t *testing.T, id string) outcome {
	t.Helper()
	state := c.awaitState(t, id)
	if state.Status == pb.TaskStatus_TASK_STATUS_FAILURE {
		return outcome{err: state.GetError().GetMessage()}
	}
	out := outcome{results: []any{}}
	for _, value := range state.Results {
		out.results = append(out.results, fromValue(value))
	}
	return out
}

// awaitState also waits for the task to be there: Go workers record a follow-up
// only when they send it, after the end of the task before it.
func (c gatewayClient) awaitState(t *testing.T, id string) *pb.TaskState {
	t.Helper()
	var response pb.GetStateResponse
	for deadline := time.Now().Add(testLimit); ; {
		err := c.call("GetState", &pb.GetStateRequest{TaskId: id, Wait: durationpb.New(testLimit)}, &response)
		switch {
		case err == nil && response.State.Status >= pb.TaskStatus_TASK_STATUS_SUCCESS:
			return response.State
		case err != nil && status.Code(err) != codes.NotFound:
			t.Fatalf("GetState: %v", err)
		case time.Now().After(deadline):
			t.Fatalf("did not end: %s %v %v", id, response.State, err)
		}
		time.Sleep(pollPause)
	}
}

func (c gatewayClient) state(t *testing.T, id string) *pb.TaskState {
	t.Helper()
	var response pb.GetStateResponse
	c.mustCall(t, "GetState", &pb.GetStateRequest{TaskId: id}, &response)
	return response.State
}

// watch returns all that a stream tells until it ends by itself.
func (c gatewayClient) watch(t *testing.T, ids ...string) []*pb.TaskState {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testLimit)
	defer cancel()
	stream, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true},
		"/penstock.v1.GatewayService/WatchState")
	if err == nil {
		err = stream.SendMsg(&pb.WatchStateRequest{TaskIds: ids})
	}
	if err == nil {
		err = stream.CloseSend()
	}
	var states []*pb.TaskState
	for err == nil {
		var news pb.WatchStateResponse
		if err = stream.RecvMsg(&news); err == nil && news.GetState() != nil {
			states = append(states, news.GetState())
		}
	}
	if err.Error() != "EOF" {
		t.Errorf("WatchState: %v", err)
	}
	return states
}

func toTasks(sigs []*Sig) []*pb.Task {
	var out []*pb.Task
	for _, sig := range sigs {
		out = append(out, toTask(sig))
	}
	return out
}

func toTask(sig *Sig) *pb.Task {
	out := &pb.Task{
		Id: sig.UUID, Name: sig.Name, RoutingKey: sig.RoutingKey,
		RetryCount: int32(sig.RetryCount), Priority: uint32(sig.Priority),
		Immutable: sig.Immutable, OnSuccess: toTasks(sig.OnSuccess),
		OnError:                     toTasks(sig.OnError),
		IgnoreWhenTaskNotRegistered: sig.IgnoreWhenTaskNotRegistered,
	}
	if sig.RetryTimeout > 0 { // the delay before; here: the first one
		out.RetryDelay = durationpb.New(time.Duration(sig.RetryTimeout+1) * time.Second)
	}
	for _, arg := range sig.Args {
		out.Args = append(out.Args, toValue(arg))
	}
	if sig.ETA != nil {
		out.Schedule = &pb.Task_Eta{Eta: timestamppb.New(*sig.ETA)}
	}
	for key, value := range sig.Headers {
		if out.Headers == nil {
			out.Headers = map[string]string{}
		}
		out.Headers[key] = value.(string)
	}
	return out
}

func toValue(arg tasks.Arg) *pb.Value {
	out := &pb.Value{Name: arg.Name, Type: arg.Type}
	value := reflect.ValueOf(arg.Value)
	switch value.Kind() {
	case reflect.Bool:
		out.Kind = &pb.Value_BoolValue{BoolValue: value.Bool()}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		out.Kind = &pb.Value_IntValue{IntValue: value.Int()}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		out.Kind = &pb.Value_UintValue{UintValue: value.Uint()}
	case reflect.Float32, reflect.Float64:
		out.Kind = &pb.Value_FloatValue{FloatValue: value.Float()}
	case reflect.String:
		out.Kind = &pb.Value_StringValue{StringValue: value.String()}
	case reflect.Slice:
		toList(out, value)
	default:
		panic(arg.Type)
	}
	return out
}

func toList(out *pb.Value, list reflect.Value) {
	var bools pb.BoolList
	var ints pb.IntList
	var uints pb.UintList
	var floats pb.FloatList
	var strings pb.StringList
	kind := list.Type().Elem().Kind()
	for i := 0; i < list.Len() && kind != reflect.Uint8; i++ {
		switch element := list.Index(i); {
		case element.Kind() == reflect.Bool:
			bools.Values = append(bools.Values, element.Bool())
		case element.CanInt():
			ints.Values = append(ints.Values, element.Int())
		case element.CanUint():
			uints.Values = append(uints.Values, element.Uint())
		case element.CanFloat():
			floats.Values = append(floats.Values, element.Float())
		default:
			strings.Values = append(strings.Values, element.String())
		}
	}
	switch {
	case kind == reflect.Uint8:
		out.Kind = &pb.Value_BytesValue{BytesValue: list.Bytes()}
	case kind == reflect.Bool:
		out.Kind = &pb.Value_Bools{Bools: &bools}
	case kind >= reflect.Int && kind <= reflect.Int64:
		out.Kind = &pb.Value_Ints{Ints: &ints}
	case kind >= reflect.Uint && kind <= reflect.Uint64:
		out.Kind = &pb.Value_Uints{Uints: &uints}
	case kind == reflect.Float32 || kind == reflect.Float64:
		out.Kind = &pb.Value_Floats{Floats: &floats}
	default:
		out.Kind = &pb.Value_Strings{Strings: &strings}
	}
}

// goTypes are Go's types by machinery's names.
var goTypes = func() map[string]reflect.Type {
	types := map[string]reflect.Type{}
	for _, value := range []any{false, int(0), int8(0), int16(0), int32(0), int64(0),
		uint(0), uint8(0), uint16(0), uint32(0), uint64(0), float32(0), float64(0), ""} {
		kind := reflect.TypeOf(value)
		types[kind.String()] = kind
		types["[]"+kind.String()] = reflect.SliceOf(kind)
	}
	types["[]byte"] = types["[]uint8"]
	return types
}()

// fromValue is the Go value that a result is.
func fromValue(value *pb.Value) any {
	kind, known := goTypes[value.Type]
	if !known {
		return fmt.Sprintf("a result of type %q", value.Type)
	}
	var elements []any
	switch v := value.Kind.(type) {
	case *pb.Value_BoolValue:
		return v.BoolValue
	case *pb.Value_IntValue:
		return reflect.ValueOf(v.IntValue).Convert(kind).Interface()
	case *pb.Value_UintValue:
		return reflect.ValueOf(v.UintValue).Convert(kind).Interface()
	case *pb.Value_FloatValue:
		return reflect.ValueOf(v.FloatValue).Convert(kind).Interface()
	case *pb.Value_StringValue:
		return v.StringValue
	case *pb.Value_BytesValue:
		return append([]byte{}, v.BytesValue...)
	case *pb.Value_Bools:
		elements = anys(v.Bools.Values)
	case *pb.Value_Ints:
		elements = anys(v.Ints.Values)
	case *pb.Value_Uints:
		elements = anys(v.Uints.Values)
	case *pb.Value_Floats:
		elements = anys(v.Floats.Values)
	case *pb.Value_Strings:
		elements = anys(v.Strings.Values)
	}
	list := reflect.MakeSlice(kind, 0, len(elements))
	for _, element := range elements {
		list = reflect.Append(list, reflect.ValueOf(element).Convert(kind.Elem()))
	}
	return list.Interface()
}

func anys[T any](values []T) []any {
	var out []any
	for _, value := range values {
		out = append(out, value)
	}
	return out
}

// allValues are edge values of every type, each scalar alone and all in a list.
func allValues() []tasks.Arg {
	var out []tasks.Arg
	add := func(values ...any) {
		kind := reflect.TypeOf(values[0])
		list := reflect.MakeSlice(reflect.SliceOf(kind), 0, len(values))
		for _, value := range values {
			out = append(out, arg(kind.String(), value))
			list = reflect.Append(list, reflect.ValueOf(value))
		}
		names := []string{"[]" + kind.String()}
		if kind.Kind() == reflect.Uint8 {
			names = append(names, "[]byte")
		}
		for _, name := range names {
			out = append(out, arg(name, list.Interface()),
				arg(name, list.Slice(0, 0).Interface()),
				arg(name, reflect.Zero(list.Type()).Interface()))
		}
	}
	add(true, false)
	add(int(math.MinInt64), int(math.MaxInt64), int(0))
	add(int8(math.MinInt8), int8(math.MaxInt8), int8(0))
	add(int16(math.MinInt16), int16(math.MaxInt16), int16(0))
	add(int32(math.MinInt32), int32(math.MaxInt32), int32(0))
	add(int64(math.MinInt64), int64(math.MaxInt64), int64(0), int64(1)<<53+1)
	add(uint(0), uint(math.MaxUint64))
	add(uint8(0), uint8(math.MaxUint8), uint8('<'))
	add(uint16(0), uint16(math.MaxUint16))
	add(uint32(0), uint32(math.MaxUint32))
	add(uint64(0), uint64(math.MaxUint64), uint64(math.MaxInt64)+1)
	add(float32(0), float32(0.1), float32(-1.5), float32(math.MaxFloat32),
		float32(math.SmallestNonzeroFloat32), float32(1<<24+2), float32(1e21), float32(1e-7))
	add(float64(0), 0.1, -1.5, 100.0, math.MaxFloat64, -math.MaxFloat64,
		math.SmallestNonzeroFloat64, 1e20, 1e21, 1e-6, 1e-7, 1.0/3, math.Copysign(0, -1))
	add("", "plain", "<b>&\"'\\/`", "\x00\x01\b\t\n\f\r\x1f\x7f", "\u2028\u2029\ufffd\ufeff",
		"äöü 漢字 😀 e\u0301", `{"not":"json"}`, "null", "1e3")
	return out
}
