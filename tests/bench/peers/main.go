// The Go peers of the bench, one program: Go machinery in process, a gRPC gateway
// over machinery, and asynq. Each command prints one line of JSON, and a worker
// or gateway serves until SIGTERM.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// options are the flags of all commands; each uses some of them.
type options struct {
	broker, backend, queue, listen, prefix string

	quorum, keep                              bool
	concurrency, prefetch, outstanding, tasks int
	size                                      int
	poll                                      time.Duration
	retries                                   int
	rate                                      float64
	task                                      string
}

func parse(arguments []string) *options {
	o := &options{}
	flags := flag.NewFlagSet("bench-peer", flag.ExitOnError)
	flags.StringVar(&o.broker, "broker", "", "amqp:// or redis:// URL")
	flags.StringVar(&o.backend, "backend", "", "redis:// URL")
	flags.StringVar(&o.queue, "queue", "bench", "queue, exchange and binding key")
	flags.StringVar(&o.listen, "listen", "", "HOST:PORT of the gateway")
	flags.StringVar(&o.prefix, "prefix", "task", "ids are PREFIX-0, PREFIX-1, ...")
	flags.StringVar(&o.task, "task", "add", "name of the task to send")
	flags.BoolVar(&o.quorum, "quorum", false, "x-queue-type: quorum")
	flags.BoolVar(&o.keep, "keep", true, "asynq keeps results")
	flags.IntVar(&o.concurrency, "concurrency", 10, "tasks that a worker runs at once")
	flags.IntVar(&o.prefetch, "prefetch", 3, "deliveries that a worker holds")
	flags.IntVar(&o.outstanding, "outstanding", 1, "goroutines that send")
	flags.IntVar(&o.tasks, "tasks", 1, "how many to send, or groups, or chords")
	flags.IntVar(&o.size, "size", 1, "members of a group or chord")
	flags.DurationVar(&o.poll, "poll", time.Millisecond, "how often a result is looked for")
	flags.Float64Var(&o.rate, "rate", 0, "tasks a second at most; 0: no limit")
	flags.IntVar(&o.retries, "retries", 0, "RetryCount of each task")
	_ = flags.Parse(arguments) // ExitOnError
	return o
}

var commands = map[string]func(*options) error{
	"machinery-send":    machinerySend,
	"machinery-worker":  machineryWorker,
	"machinery-group":   machineryGroup,
	"machinery-chord":   machineryChord,
	"machinery-latency": machineryLatency,
	"gateway":           serveGateway,
	"asynq-send":        asynqSend,
	"asynq-worker":      asynqWorker,
	"asynq-await":       asynqAwait,
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: penstock-bench-peer COMMAND [-FLAG=VALUE]...")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](parse(os.Args[2:])); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

// figures is what a command prints; the C++ clients print the same names.
type figures struct {
	Tasks   int     `json:"tasks"`
	Seconds float64 `json:"seconds"`
	// Unix time: an end that another process sees is set against it.
	Begun float64 `json:"begun"`
	Ended float64 `json:"ended"`
	// Of single calls, in microseconds.
	P50  float64 `json:"p50_us,omitempty"`
	P99  float64 `json:"p99_us,omitempty"`
	P999 float64 `json:"p999_us,omitempty"`
}

func print(tasks int, begun time.Time, calls []time.Duration) error {
	ended := time.Now()
	f := figures{Tasks: tasks, Seconds: ended.Sub(begun).Seconds(),
		Begun: float64(begun.UnixNano()) / 1e9, Ended: float64(ended.UnixNano()) / 1e9}
	if len(calls) > 0 {
		slices.Sort(calls)
		at := func(share float64) float64 {
			return float64(calls[int(share*float64(len(calls)-1))].Nanoseconds()) / 1e3
		}
		f.P50, f.P99, f.P999 = at(0.5), at(0.99), at(0.999)
	}
	return json.NewEncoder(os.Stdout).Encode(f)
}

// inParallel calls do(0) to do(total-1) from so many goroutines; the first error
// ends it.
func inParallel(goroutines, total int, do func(i int) error) error {
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var all sync.WaitGroup
	for range goroutines {
		all.Add(1)
		go func() {
			defer all.Done()
			for failed.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= total {
					return
				}
				if err := do(i); err != nil {
					failed.Store(&err)
				}
			}
		}()
	}
	all.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

func awaitSignal() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	<-signals
}
