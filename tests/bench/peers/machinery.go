// Go machinery v2 in process: AMQP or Redis broker, Redis backend.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"strings"
	"sync"
	"time"

	"github.com/RichardKnop/machinery/v2"
	redisbackend "github.com/RichardKnop/machinery/v2/backends/redis"
	"github.com/RichardKnop/machinery/v2/backends/result"
	amqpbroker "github.com/RichardKnop/machinery/v2/brokers/amqp"
	"github.com/RichardKnop/machinery/v2/brokers/iface"
	redisbroker "github.com/RichardKnop/machinery/v2/brokers/redis"
	"github.com/RichardKnop/machinery/v2/config"
	"github.com/RichardKnop/machinery/v2/locks/eager"
	mlog "github.com/RichardKnop/machinery/v2/log"
	"github.com/RichardKnop/machinery/v2/tasks"
)

const patience = 5 * time.Minute

// host:port and the number of the database of a redis:// URL.
func splitRedis(url string) (host string, db int) {
	host, number, _ := strings.Cut(strings.TrimPrefix(url, "redis://"), "/")
	_, _ = fmt.Sscan(number, &db) // none is 0
	return host, db
}

func newServer(o *options) (*machinery.Server, error) {
	// It logs each task; nobody who measures lets it.
	quiet := stdlog.New(io.Discard, "", 0)
	mlog.SetDebug(quiet)
	mlog.SetInfo(quiet)
	cnf := &config.Config{
		Broker:          o.broker,
		ResultBackend:   o.backend,
		DefaultQueue:    o.queue,
		ResultsExpireIn: 3600,
		NoUnixSignals:   true,
		AMQP: &config.AMQPConfig{
			Exchange:      o.queue,
			ExchangeType:  "direct",
			BindingKey:    o.queue,
			PrefetchCount: o.prefetch,
		},
		// More idle connections than its default of 10, which would open a new one
		// for most commands of 64 senders.
		Redis: &config.RedisConfig{
			MaxIdle: 100, MaxActive: 200, Wait: true, IdleTimeout: 300,
			ReadTimeout: 60, WriteTimeout: 15, ConnectTimeout: 15,
			NormalTasksPollPeriod: 1000, DelayedTasksPollPeriod: 20,
		},
	}
	if o.quorum {
		cnf.AMQP.QueueDeclareArgs = config.QueueDeclareArgs{"x-queue-type": "quorum"}
	}
	host, db := splitRedis(o.backend)
	var broker iface.Broker = amqpbroker.New(cnf)
	if strings.HasPrefix(o.broker, "redis") {
		brokerHost, brokerDB := splitRedis(o.broker)
		broker = redisbroker.New(cnf, brokerHost, "", "", "", brokerDB)
	}
	backend := redisbackend.New(cnf, host, "", "", "", db)
	return machinery.NewServer(cnf, broker, backend, eager.New()), nil
}

// add is the signature of number i: add(i, 1).
func add(id string, i int) *tasks.Signature {
	return &tasks.Signature{UUID: id, Name: "add", Args: []tasks.Arg{
		{Type: "int64", Value: int64(i)}, {Type: "int64", Value: int64(1)}}}
}

func (o *options) id(i int) string { return fmt.Sprintf("%s-%d", o.prefix, i) }

// newSender has sent one task: the first use of a queue opens its connection, which
// is not what is measured.
func newSender(o *options) (*machinery.Server, error) {
	server, err := newServer(o)
	if err != nil {
		return nil, err
	}
	_, err = server.SendTask(add(o.prefix+"-first", 0))
	return server, err
}

func machinerySend(o *options) error {
	server, err := newSender(o)
	if err != nil {
		return err
	}
	begun := time.Now()
	calls := make([]time.Duration, o.tasks)
	err = inParallel(o.outstanding, o.tasks, func(i int) error {
		signature := add(o.id(i), i)
		signature.Name = o.task
		signature.RetryCount = o.retries
		if o.rate > 0 {
			time.Sleep(time.Until(begun.Add(time.Duration(float64(i) / o.rate * 1e9))))
		}
		start := time.Now()
		_, err := server.SendTask(signature)
		calls[i] = time.Since(start)
		return err
	})
	if err != nil {
		return err
	}
	return print(o.tasks, begun, calls)
}

// flaky fails the first time that it sees a number.
func flaky() func(int64, int64) (int64, error) {
	var mu sync.Mutex
	seen := map[int64]bool{}
	return func(i, one int64) (int64, error) {
		mu.Lock()
		defer mu.Unlock()
		if !seen[i] {
			seen[i] = true
			return 0, errors.New("the first time")
		}
		return i + one, nil
	}
}

func machineryWorker(o *options) error {
	server, err := newServer(o)
	if err != nil {
		return err
	}
	err = server.RegisterTasks(map[string]any{
		"add": func(numbers ...int64) (int64, error) {
			sum := int64(0)
			for _, number := range numbers {
				sum += number
			}
			return sum, nil
		},
		"now":   func(...int64) (int64, error) { return time.Now().UnixNano(), nil },
		"flaky": flaky(),
	})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	server.NewWorker("", o.concurrency).LaunchAsync(ended)
	go endOnSignal(ended)
	return <-ended
}

// endOnSignal ends the process as a user would, without waiting for machinery's
// own end, which may take for ever.
func endOnSignal(ended chan<- error) {
	awaitSignal()
	ended <- nil
}

// members are the add tasks of a group: their results are 1 to n.
func members(o *options, n int) []*tasks.Signature {
	out := make([]*tasks.Signature, o.size)
	for i := range out {
		number := n*o.size + i
		out[i] = add(o.id(number), number)
	}
	return out
}

func machineryGroup(o *options) error {
	server, err := newSender(o)
	if err != nil {
		return err
	}
	calls := make([]time.Duration, o.tasks)
	begun := time.Now()
	err = inParallel(o.outstanding, o.tasks, func(n int) error {
		group, err := tasks.NewGroup(members(o, n)...)
		if err != nil {
			return err
		}
		start := time.Now()
		_, err = server.SendGroup(group, 0)
		calls[n] = time.Since(start)
		return err
	})
	if err != nil {
		return err
	}
	return print(o.tasks*o.size, begun, calls)
}

// one result, an int64.
func expect(result *result.AsyncResult, poll time.Duration, want int64) error {
	values, err := result.GetWithTimeout(patience, poll)
	if err != nil {
		return err
	}
	if len(values) != 1 || values[0].Int() != want {
		return fmt.Errorf("wrong result: %v, not %d", values, want)
	}
	return nil
}

func machineryChord(o *options) error {
	server, err := newSender(o)
	if err != nil {
		return err
	}
	calls := make([]time.Duration, o.tasks)
	begun := time.Now()
	for n := range o.tasks {
		group, err := tasks.NewGroup(members(o, n)...)
		if err != nil {
			return err
		}
		want := int64(0)
		for i := range o.size {
			want += int64(n*o.size + i + 1)
		}
		chord, err := tasks.NewChord(group, &tasks.Signature{Name: "add", UUID: fmt.Sprintf("%s-callback-%d", o.prefix, n)})
		if err != nil {
			return err
		}
		start := time.Now()
		if _, err = server.SendChord(chord, 0); err != nil {
			return err
		}
		// Of the callback alone: a ChordAsyncResult reads every member.
		if err := expect(result.NewAsyncResult(chord.Callback, server.GetBackend()), o.poll, want); err != nil {
			return err
		}
		calls[n] = time.Since(start)
	}
	return print(o.tasks*o.size, begun, calls)
}

func machineryLatency(o *options) error {
	server, err := newSender(o)
	if err != nil {
		return err
	}
	calls := make([]time.Duration, o.tasks)
	begun := time.Now()
	for i := range o.tasks {
		start := time.Now()
		result, err := server.SendTaskWithContext(context.Background(), add(o.id(i), i))
		if err != nil {
			return err
		}
		if err := expect(result, o.poll, int64(i)+1); err != nil {
			return err
		}
		calls[i] = time.Since(start)
	}
	return print(o.tasks, begun, calls)
}
