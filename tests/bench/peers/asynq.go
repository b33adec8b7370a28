// asynq, for the Redis broker: a worker that keeps each result, as machinery and
// Penstock do, and a check that reads them all.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hibiken/asynq"
)

func redisOption(o *options) asynq.RedisClientOpt {
	host, db := splitRedis(o.broker)
	return asynq.RedisClientOpt{Addr: host, DB: db}
}

func asynqSend(o *options) error {
	client := asynq.NewClient(redisOption(o))
	defer client.Close()
	begun := time.Now()
	calls := make([]time.Duration, o.tasks)
	err := inParallel(o.outstanding, o.tasks, func(i int) error {
		payload := binary.BigEndian.AppendUint64(nil, uint64(i))
		start := time.Now()
		_, err := client.Enqueue(asynq.NewTask("add", payload), asynq.Queue(o.queue),
			asynq.TaskID(o.id(i)), asynq.Retention(time.Hour))
		calls[i] = time.Since(start)
		return err
	})
	if err != nil {
		return err
	}
	return print(o.tasks, begun, calls)
}

func asynqWorker(o *options) error {
	server := asynq.NewServer(redisOption(o), asynq.Config{
		Concurrency: o.concurrency, Queues: map[string]int{o.queue: 1}, LogLevel: asynq.ErrorLevel,
	})
	err := server.Start(asynq.HandlerFunc(func(_ context.Context, task *asynq.Task) error {
		sum := binary.BigEndian.Uint64(task.Payload()) + 1
		_, err := task.ResultWriter().Write(binary.BigEndian.AppendUint64(nil, sum))
		return err
	}))
	if err != nil {
		return err
	}
	awaitSignal()
	server.Shutdown()
	return nil
}

// asynqAwait waits until as many tasks are completed as were sent, which costs one
// command each 5 ms, and then reads every result.
func asynqAwait(o *options) error {
	inspector := asynq.NewInspector(redisOption(o))
	defer inspector.Close()
	begun := time.Now()
	for {
		info, err := inspector.GetQueueInfo(o.queue)
		if err == nil && info.Completed >= o.tasks {
			break
		}
		if err != nil && !errors.Is(err, asynq.ErrQueueNotFound) {
			return err
		}
		if time.Since(begun) > patience {
			return errors.New("not all tasks ended in time")
		}
		time.Sleep(5 * time.Millisecond)
	}
	seen := time.Now()
	for i := range o.tasks {
		info, err := inspector.GetTaskInfo(o.queue, o.id(i))
		if err != nil {
			return err
		}
		if info.State != asynq.TaskStateCompleted || len(info.Result) != 8 ||
			binary.BigEndian.Uint64(info.Result) != uint64(i)+1 {
			return fmt.Errorf("%s is %v with %x", info.ID, info.State, info.Result)
		}
	}
	fmt.Printf("{\"tasks\": %d, \"seconds\": %f, \"ended\": %f}\n", o.tasks,
		seen.Sub(begun).Seconds(), float64(seen.UnixNano())/1e9)
	return nil
}
