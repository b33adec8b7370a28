// asynq, for the Redis broker: a worker that keeps each result, as machinery and
// Penstock do, and a check that reads them all. With -keep=false there are no
// results, which is asynq's default: then its counters are all that can be checked.
package main

import (
	"context"
	"encoding/binary"
	"errors"
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
	retention := time.Duration(0)
	if o.keep {
		retention = time.Hour
	}
	err := inParallel(o.outstanding, o.tasks, func(i int) error {
		payload := binary.BigEndian.AppendUint64(nil, uint64(i))
		start := time.Now()
		_, err := client.Enqueue(asynq.NewTask("add", payload), asynq.Queue(o.queue),
			asynq.TaskID(o.id(i)), asynq.Retention(retention))
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
		if !o.keep {
			return nil
		}
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

// ended is how many tasks have ended well: one cheap command, where asynq's own
// inspector would run scripts.
func ended(ctx context.Context, client *redis.Client, o *options) (int64, error) {
	key := "asynq:{" + o.queue + "}:"
	if o.keep {
		return client.ZCard(ctx, key+"completed").Result()
	}
	processed, err := client.Get(ctx, key+"processed").Int64()
	if errors.Is(err, redis.Nil) {
		return 0, nil
	}
	if failed := client.Exists(ctx, key+"failed").Val(); failed > 0 {
		return 0, errors.New("tasks have failed")
	}
	return processed, err
}

// asynqAwait waits until as many tasks have ended as were sent, and then reads every
// result.
func asynqAwait(o *options) error {
	host, db := splitRedis(o.broker)
	client := redis.NewClient(&redis.Options{Addr: host, DB: db})
	defer client.Close()
	begun := time.Now()
	for {
		number, err := ended(context.Background(), client, o)
		if err != nil {
			return err
		}
		if number >= int64(o.tasks) {
			break
		}
		if time.Since(begun) > patience {
			return fmt.Errorf("only %d tasks ended in time", number)
		}
		time.Sleep(5 * time.Millisecond)
	}
	seen := time.Now()
	if err := checkResults(o); err != nil {
		return err
	}
	fmt.Printf("{\"tasks\": %d, \"seconds\": %f, \"ended\": %f}\n", o.tasks,
		seen.Sub(begun).Seconds(), float64(seen.UnixNano())/1e9)
	return nil
}

func checkResults(o *options) error {
	inspector := asynq.NewInspector(redisOption(o))
	defer inspector.Close()
	for i := 0; o.keep && i < o.tasks; i++ {
		info, err := inspector.GetTaskInfo(o.queue, o.id(i))
		if err != nil {
			return err
		}
		if info.State != asynq.TaskStateCompleted || len(info.Result) != 8 ||
			binary.BigEndian.Uint64(info.Result) != uint64(i)+1 {
			return fmt.Errorf("%s is %v with %x", info.ID, info.State, info.Result)
		}
	}
	return nil
}
