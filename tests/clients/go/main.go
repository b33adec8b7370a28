// The clients' table of cases by the Go package: see ../README.md.
package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/metadata"

	penstock "penstock.dev/sdk/go"
)

var run = rand.Text()

// object is what is written for an outcome.
type object = map[string]any

type taskCase struct {
	Name          string
	Args          []map[string]json.RawMessage
	ID            string
	DelayMS       int64 `json:"delay_ms"`
	RetryCount    int   `json:"retry_count"`
	Immutable     bool
	Headers       map[string]string
	OnSuccess     []taskCase `json:"on_success"`
	OnError       []taskCase `json:"on_error"`
	UniqueKey     string     `json:"unique_key"`
	TimeoutMS     int64      `json:"timeout_ms"`
	ExpireAfterMS int64      `json:"expire_after_ms"`
	RoutingKey    string     `json:"routing_key"`
	Priority      uint32
}

type testCase struct {
	Name      string
	Do        string
	Task      taskCase
	Other     taskCase
	Tasks     []taskCase
	Callback  taskCase
	OnFailure taskCase `json:"on_failure"`
	TaskID    string   `json:"task_id"`
	GroupID   string   `json:"group_id"`
	Reason    string
	TimeoutMS int64 `json:"timeout_ms"`
	Metadata  map[string]string
}

func ownID(text string) string {
	if name, own := strings.CutPrefix(text, "@"); own {
		return "go." + name + "." + run
	}
	return text
}

// ---- in

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func read[T any](raw json.RawMessage) T {
	var out T
	if err := json.Unmarshal(raw, &out); err != nil {
		panic(err)
	}
	return out
}

func bits(digits string) float64 {
	return math.Float64frombits(must(strconv.ParseUint(digits, 16, 64)))
}

// content is a value of one of machinery's types as Go has it: whole numbers in 64
// bits, floats as float64.
func content(kind string, raw json.RawMessage) any {
	element, isList := strings.CutPrefix(kind, "[]")
	switch {
	case kind == "[]byte":
		return must(hex.DecodeString(read[string](raw)))
	case isList:
		all := read[[]json.RawMessage](raw)
		switch {
		case element == "bool":
			return elements[bool](element, all)
		case element == "string":
			return elements[string](element, all)
		case strings.HasPrefix(element, "float"):
			return elements[float64](element, all)
		case strings.HasPrefix(element, "uint"):
			return elements[uint64](element, all)
		}
		return elements[int64](element, all)
	case kind == "bool":
		return read[bool](raw)
	case kind == "string":
		return read[string](raw)
	case strings.HasPrefix(kind, "float"):
		return bits(read[string](raw))
	case strings.HasPrefix(kind, "uint"):
		return must(strconv.ParseUint(read[string](raw), 10, 64))
	}
	return must(strconv.ParseInt(read[string](raw), 10, 64))
}

func elements[T any](kind string, raws []json.RawMessage) []T {
	all := []T{}
	for _, raw := range raws {
		all = append(all, content(kind, raw).(T))
	}
	return all
}

var native = []string{"bool", "int64", "float64", "string", "[]byte", "[]bool", "[]int64",
	"[]float64", "[]string"}

func task(c taskCase) *penstock.Task {
	out := &penstock.Task{
		Name:        c.Name,
		ID:          ownID(c.ID),
		RoutingKey:  c.RoutingKey,
		Delay:       time.Duration(c.DelayMS) * time.Millisecond,
		RetryCount:  c.RetryCount,
		Priority:    c.Priority,
		Immutable:   c.Immutable,
		Headers:     c.Headers,
		OnSuccess:   tasks(c.OnSuccess),
		OnError:     tasks(c.OnError),
		Timeout:     time.Duration(c.TimeoutMS) * time.Millisecond,
		ExpireAfter: time.Duration(c.ExpireAfterMS) * time.Millisecond,
		UniqueKey:   ownID(c.UniqueKey),
	}
	for _, arg := range c.Args {
		for kind, raw := range arg {
			value := content(kind, raw)
			empty := strings.HasPrefix(kind, "[]") && string(raw) == "[]"
			// In Go a uint64 is one all by itself, whatever its value.
			if !slices.Contains(native, kind) && kind != "uint64" || empty {
				value = penstock.Typed(kind, value)
			}
			out.Args = append(out.Args, value)
		}
	}
	return out
}

func tasks(cases []taskCase) []*penstock.Task {
	var all []*penstock.Task
	for _, c := range cases {
		all = append(all, task(c))
	}
	return all
}

// ---- out

func written(value any) object {
	switch v := value.(type) {
	case bool:
		return object{"bool": v}
	case int64:
		return object{"int": strconv.FormatInt(v, 10)}
	case uint64:
		return object{"int": strconv.FormatUint(v, 10)}
	case float64:
		return object{"float": hex.EncodeToString(binary.BigEndian.AppendUint64(nil, math.Float64bits(v)))}
	case string:
		return object{"string": v}
	case []byte:
		return object{"bytes": hex.EncodeToString(v)}
	case []bool:
		return list(v)
	case []int64:
		return list(v)
	case []uint64:
		return list(v)
	case []float64:
		return list(v)
	case []string:
		return list(v)
	}
	panic(fmt.Sprintf("a result of type %T", value))
}

func list[T any](values []T) object {
	all := []object{}
	for _, value := range values {
		all = append(all, written(value))
	}
	return object{"list": all}
}

// failed is the outcome that an error is.
func failed(err error) object {
	var call *penstock.Error
	var ended *penstock.TaskError
	var value *penstock.ValueError
	switch {
	case errors.As(err, &ended):
		status := penstock.Failure
		if ended.Cancelled {
			status = penstock.Cancelled
		}
		return object{"task_error": object{"status": status, "message": ended.Message, "type": ended.Type}}
	case errors.As(err, &call):
		described := object{"code": code.Code(call.Code).String()}
		if call.Reason != "" {
			described["reason"] = call.Reason
		}
		var fields []string
		for _, violation := range call.Violations {
			fields = append(fields, violation.Field)
		}
		if fields != nil {
			described["fields"] = fields
		}
		return object{"error": described}
	case errors.As(err, &value):
		return object{"client_error": true}
	case errors.Is(err, context.DeadlineExceeded):
		return object{"timeout": true}
	}
	panic(err)
}

func outcome(results []any, err error) object {
	if err != nil {
		return failed(err)
	}
	all := []object{}
	for _, result := range results {
		all = append(all, written(result))
	}
	return object{"results": all}
}

func outcomeOf(handle *penstock.Handle, timeout time.Duration) object {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return outcome(handle.Results(ctx))
}

// ---- what there is to do

const patience = 60 * time.Second

func carryOut(client *penstock.Client, c testCase) (object, error) {
	ctx := context.Background()
	switch c.Do {
	case "send", "metadata":
		for key, value := range c.Metadata {
			ctx = metadata.AppendToOutgoingContext(ctx, key, value)
		}
		handle, err := client.SendTask(ctx, task(c.Task))
		if err != nil {
			return nil, err
		}
		timeout := 20 * time.Second
		if c.TimeoutMS != 0 {
			timeout = time.Duration(c.TimeoutMS) * time.Millisecond
		}
		return outcomeOf(handle, timeout), nil
	case "group":
		group, err := client.SendGroup(ctx, tasks(c.Tasks))
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		states, err := group.Wait(ctx)
		members := []object{}
		for _, state := range states {
			members = append(members, outcome(state.Results, state.Result()))
		}
		return object{"members": members}, err
	case "chain":
		chain, err := client.SendChain(ctx, tasks(c.Tasks))
		if err != nil {
			return nil, err
		}
		return outcomeOf(&chain.Handle, patience), nil
	case "chord":
		chord, err := client.SendChord(ctx, tasks(c.Tasks), task(c.Callback))
		if err != nil {
			return nil, err
		}
		return outcomeOf(&chord.Handle, patience), nil
	case "chord_on_failure":
		onFailure := task(c.OnFailure)
		chord, err := client.SendChord(ctx, tasks(c.Tasks), task(c.Callback), penstock.OnFailure(onFailure))
		if err != nil {
			return nil, err
		}
		callback := outcomeOf(&chord.Handle, patience)
		// Its state exists from the moment on that it is sent.
		handle := client.Task(onFailure.ID)
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
			if _, err := handle.State(ctx); !errors.Is(err, penstock.TaskNotFound) {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		return object{"callback": callback, "on_failure": outcomeOf(handle, patience)}, nil
	case "many":
		results, err := client.SendMany(ctx, tasks(c.Tasks))
		return membersOf(results), err
	case "stream":
		results := make([]penstock.SendResult, len(c.Tasks))
		for result, err := range client.SendStream(ctx, slices.Values(tasks(c.Tasks))) {
			if err != nil {
				return nil, err
			}
			results[result.Index] = result
		}
		return membersOf(results), nil
	case "state":
		state, err := client.Task(c.TaskID).State(ctx)
		if err != nil {
			return nil, err
		}
		return object{"status": state.Status}, nil
	case "group_state":
		state, err := client.Group(c.GroupID).State(ctx)
		if err != nil {
			return nil, err
		}
		return object{"total": state.Total}, nil
	case "watch":
		handle, err := client.SendTask(ctx, task(c.Task))
		if err != nil {
			return nil, err
		}
		last, err := watchUntil(handle, "")
		return object{"last": last}, err
	case "cancel", "cancel_running":
		handle, err := client.SendTask(ctx, task(c.Task))
		if err != nil {
			return nil, err
		}
		if c.Do == "cancel_running" {
			if last, err := watchUntil(handle, penstock.Started); last != penstock.Started {
				panic(fmt.Sprintf("the task was never started: %s, %v", last, err))
			}
		}
		accepted, err := handle.Cancel(ctx, c.Reason)
		if err != nil {
			return nil, err
		}
		return object{"accepted": accepted, "outcome": outcomeOf(handle, patience)}, nil
	case "wait_over":
		handle, err := client.SendTask(ctx, task(c.Task))
		if err != nil {
			return nil, err
		}
		over := outcomeOf(handle, time.Duration(c.TimeoutMS)*time.Millisecond)
		_, err = handle.Cancel(ctx, "")
		return over, err
	case "repeat":
		requestID := penstock.RequestID(ownID("@repeat"))
		first, err := client.SendTask(ctx, task(c.Task), requestID)
		if err != nil {
			return nil, err
		}
		second, err := client.SendTask(ctx, task(c.Task), requestID)
		if err != nil {
			return nil, err
		}
		return object{"same_id": first.ID == second.ID,
			"replayed": []bool{first.Replayed, second.Replayed},
			"outcome":  outcomeOf(second, patience)}, nil
	case "reuse":
		requestID := penstock.RequestID(ownID("@reuse"))
		if _, err := client.SendTask(ctx, task(c.Task), requestID); err != nil {
			panic(err)
		}
		_, err := client.SendTask(ctx, task(c.Other), requestID)
		return nil, err
	case "unique":
		first, err := client.SendTask(ctx, task(c.Task))
		if err != nil {
			panic(err)
		}
		_, second := client.SendTask(ctx, task(c.Task))
		if _, err := first.Cancel(ctx, ""); err != nil {
			panic(err)
		}
		return nil, second
	case "silent":
		silent, err := penstock.NewClient(os.Getenv("CLIENTS_SILENT"),
			penstock.WithCallTimeout(500*time.Millisecond), penstock.WithRetryBudget(0))
		if err != nil {
			panic(err)
		}
		defer silent.Close()
		_, err = silent.SendTask(ctx, task(c.Task))
		return nil, err
	}
	panic("unknown: " + c.Do)
}

// watchUntil is the last status that a watch told, which ends at `until`.
func watchUntil(handle *penstock.Handle, until penstock.Status) (penstock.Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var last penstock.Status
	for state, err := range handle.Watch(ctx) {
		if err != nil {
			return last, err
		}
		if last = state.Status; last == until {
			break
		}
	}
	return last, nil
}

func membersOf(results []penstock.SendResult) object {
	members := []object{}
	for _, result := range results {
		if result.Err != nil {
			members = append(members, failed(result.Err))
		} else {
			members = append(members, outcomeOf(result.Task, patience))
		}
	}
	return object{"members": members}
}

func runCases(client *penstock.Client, path string) object {
	outcomes := object{}
	for _, c := range read[[]testCase](must(os.ReadFile(path))) {
		fmt.Println(c.Name)
		found, err := carryOut(client, c)
		if err != nil {
			found = failed(err)
		}
		outcomes[c.Name] = found
	}
	return outcomes
}

// ---- restarts

func runRoll(client *penstock.Client, count int, prefix string) object {
	handles := make([]*penstock.Handle, count)
	outcomes := make([]object, count)
	atOnce := func(do func(int)) {
		var next atomic.Int64
		var workers sync.WaitGroup
		for range 8 {
			workers.Add(1)
			go func() {
				defer workers.Done()
				for i := int(next.Add(1)) - 1; i < count; i = int(next.Add(1)) - 1 {
					do(i)
				}
			}()
		}
		workers.Wait()
	}
	var accepted atomic.Int64
	atOnce(func(i int) {
		handles[i] = must(client.Send(context.Background(), "record", fmt.Sprintf("%s.%d", prefix, i)))
		if n := accepted.Add(1); n%100 == 0 {
			fmt.Println("sent", n)
		}
	})
	atOnce(func(i int) { outcomes[i] = outcomeOf(handles[i], 2*time.Minute) })
	ids := make([]string, count)
	for i, handle := range handles {
		ids[i] = handle.ID
	}
	return object{"sent": ids, "outcomes": outcomes}
}

func main() {
	if len(os.Args) < 5 {
		fmt.Fprintln(os.Stderr, "usage: runner cases ADDRESSES CASES OUT\n"+
			"       runner roll ADDRESSES COUNT PREFIX OUT")
		os.Exit(2)
	}
	client := must(penstock.NewClient(os.Args[2]))
	defer client.Close()
	var done object
	switch os.Args[1] {
	case "cases":
		done = runCases(client, os.Args[3])
	case "roll":
		done = runRoll(client, must(strconv.Atoi(os.Args[3])), os.Args[4])
	default:
		panic("unknown: " + os.Args[1])
	}
	if err := os.WriteFile(os.Args[len(os.Args)-1], must(json.MarshalIndent(done, "", " ")), 0o644); err != nil {
		panic(err)
	}
}
