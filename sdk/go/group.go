package penstock

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "penstock.dev/sdk/go/penstock/v1"
)

// A page of a group's members; the gateway sends no more.
const groupPage = 1000

// A GroupHandle is a group that was sent. It is safe for use by many goroutines at
// once.
type GroupHandle struct {
	ID       string
	Replayed bool      // an equal group had been accepted under this id before
	Tasks    []*Handle // the members, in order; nil from Client.Group

	client *Client
}

// A ChordHandle is that of a chord's callback, whose result is the chord's.
type ChordHandle struct {
	Handle
	Group *GroupHandle // its members
}

// SendGroup sends tasks that run in parallel, 1 to 10,000. When it returns, the broker
// has all of them. Options: [RequestID], [GroupID], [SendConcurrency].
func (c *Client) SendGroup(ctx context.Context, tasks []*Task, opts ...SendOption) (*GroupHandle, error) {
	o, err := readOptions("SendGroup", opts, "GroupID", "SendConcurrency")
	if err != nil {
		return nil, err
	}
	messages, err := encodeAll(tasks)
	if err != nil {
		return nil, err
	}
	request := &pb.SendGroupRequest{Tasks: messages, RequestId: o.requestID,
		GroupId: o.groupID, SendConcurrency: int32(o.sendConcurrency)}
	var answer *pb.SendGroupResponse
	if err := c.call(ctx, func(ctx context.Context) (err error) {
		answer, err = c.gateway.SendGroup(ctx, request)
		return err
	}); err != nil {
		return nil, err
	}
	replayed := answer.GetReplayed()
	return &GroupHandle{ID: answer.GetGroupId(), Replayed: replayed,
		Tasks: c.handles(answer.GetTaskIds(), replayed), client: c}, nil
}

// SendChord sends a group and, when all its members have succeeded, a callback with all
// their results after its own arguments. When a member fails, the callback ends in
// FAILURE. Options: [RequestID], [GroupID], [SendConcurrency], [OnFailure].
func (c *Client) SendChord(ctx context.Context, tasks []*Task, callback *Task, opts ...SendOption) (*ChordHandle, error) {
	o, err := readOptions("SendChord", opts, "GroupID", "SendConcurrency", "OnFailure")
	if err != nil {
		return nil, err
	}
	request := &pb.SendChordRequest{RequestId: o.requestID, GroupId: o.groupID,
		SendConcurrency: int32(o.sendConcurrency)}
	if request.Tasks, err = encodeAll(tasks); err != nil {
		return nil, err
	}
	if request.Callback, err = callback.encode(); err != nil {
		return nil, err
	}
	if o.onFailure != nil {
		if request.OnFailure, err = o.onFailure.encode(); err != nil {
			return nil, err
		}
	}
	var answer *pb.SendChordResponse
	if err := c.call(ctx, func(ctx context.Context) (err error) {
		answer, err = c.gateway.SendChord(ctx, request)
		return err
	}); err != nil {
		return nil, err
	}
	replayed := answer.GetReplayed()
	return &ChordHandle{
		Handle: Handle{ID: answer.GetCallbackTaskId(), Replayed: replayed, client: c},
		Group: &GroupHandle{ID: answer.GetGroupId(), Replayed: replayed,
			Tasks: c.handles(answer.GetTaskIds(), replayed), client: c},
	}, nil
}

// A GroupState is how a group stands.
type GroupState struct {
	GroupID        string
	Total          int            // how many members it has
	Counts         map[Status]int // how many stand at each status
	Done           bool           // all are final, a chord's callback too
	ChordTriggered bool           // a chord's callback was set off
	Callback       *State         // of a chord; nil for a plain group
}

func newGroupState(in *pb.GroupState) *GroupState {
	out := &GroupState{GroupID: in.GetGroupId(), Total: int(in.GetTotal()),
		Counts: map[Status]int{}, Done: in.GetDone(), ChordTriggered: in.GetChordTriggered()}
	for _, count := range in.GetCounts() {
		out.Counts[statusOf(count.GetStatus())] += int(count.GetCount())
	}
	if in.GetCallback() != nil {
		out.Callback = newState(in.GetCallback())
	}
	return out
}

// State reads how the group stands.
func (g *GroupHandle) State(ctx context.Context) (*GroupState, error) {
	answer, err := g.read(ctx, &pb.GetGroupStateRequest{GroupId: g.ID}, 0)
	if err != nil {
		return nil, err
	}
	return newGroupState(answer.GetGroup()), nil
}

// Wait waits for the group to end, a chord's callback too, and returns how each member
// ended, in their order. When ctx ends first, the error wraps that of ctx.
func (g *GroupHandle) Wait(ctx context.Context) ([]*State, error) {
	_, err := wait(ctx, "group "+g.ID, func(ctx context.Context, wait time.Duration) (any, bool, error) {
		answer, err := g.read(ctx, &pb.GetGroupStateRequest{GroupId: g.ID}, wait)
		return nil, answer.GetGroup().GetDone(), err
	})
	if err != nil {
		return nil, err
	}
	var members []*State
	request := &pb.GetGroupStateRequest{GroupId: g.ID, IncludeTasks: true, PageSize: groupPage}
	for {
		answer, err := g.read(ctx, request, 0)
		if err != nil {
			return nil, err
		}
		for _, member := range answer.GetGroup().GetTasks() {
			members = append(members, newState(member))
		}
		if request.PageToken = answer.GetNextPageToken(); request.PageToken == "" {
			return members, nil
		}
	}
}

// Results waits for the group to end and returns the results of each member, in their
// order, with the types of [Handle.Results]. When members failed, the error is that of
// the first of them; [GroupHandle.Wait] tells of each.
func (g *GroupHandle) Results(ctx context.Context) ([][]any, error) {
	members, err := g.Wait(ctx)
	if err != nil {
		return nil, err
	}
	results := make([][]any, len(members))
	for i, member := range members {
		if err := member.Result(); err != nil {
			return nil, err
		}
		results[i] = member.Results
	}
	return results, nil
}

// Cancel ends every member that is not final, and a chord's callback, and returns how
// many that were. See [Handle.Cancel].
func (g *GroupHandle) Cancel(ctx context.Context, reason string) (int, error) {
	request := &pb.CancelGroupRequest{GroupId: g.ID, Reason: reason}
	var answer *pb.CancelGroupResponse
	err := g.client.call(ctx, func(ctx context.Context) (err error) {
		answer, err = g.client.gateway.CancelGroup(ctx, request)
		return err
	})
	return int(answer.GetCancelledCount()), err
}

func (g *GroupHandle) read(ctx context.Context, request *pb.GetGroupStateRequest,
	wait time.Duration) (*pb.GetGroupStateResponse, error) {
	timeout := g.client.options.callTimeout
	if wait > 0 {
		request.Wait = durationpb.New(wait)
		timeout = wait + waitMargin
	}
	var answer *pb.GetGroupStateResponse
	err := g.client.callWithin(ctx, timeout, wait > 0, func(ctx context.Context) (err error) {
		answer, err = g.client.gateway.GetGroupState(ctx, request)
		return err
	})
	return answer, err
}
