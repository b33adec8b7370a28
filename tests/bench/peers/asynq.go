// asynq, for the Redis broker: a worker that keeps each result, as machinery and
// Penstock do, and a check that reads them all.
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
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
// cheap command each 5 ms (asynq's own inspector would run scripts), and then reads
// every result.
func asynqAwait(o *options) error {
	host, db := splitRedis(o.broker)
	client := redis.NewClient(&redis.Options{Addr: host, DB: db})
	defer client.Close()
	ctx := context.Background()
	begun := time.Now()
	for {
		completed, err := client.ZCard(ctx, "asynq:{"+o.queue+"}:completed").Result()
		if err != nil {
			return err
		}
		if completed >= int64(o.tasks) {
			break
		}
		if time.Since(begun) > patience {
			return fmt.Errorf("only %d tasks ended in time", completed)
		}
		time.Sleep(5 * time.Millisecond)
	}
	seen := time.Now()
	inspector := asynq.NewInspector(redisOption(o))
	defer inspector.Close()
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
