// One face over both versions of machinery. The signatures of the tests are
// v2's; for v1, whose are the same member by member, they are copied.
package interop

import (
	"context"
	"fmt"
	"io"
	stdlog "log"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/google/uuid"

	v1 "github.com/RichardKnop/machinery/v1"
	v1result "github.com/RichardKnop/machinery/v1/backends/result"
	v1config "github.com/RichardKnop/machinery/v1/config"
	v1log "github.com/RichardKnop/machinery/v1/log"
	v1tasks "github.com/RichardKnop/machinery/v1/tasks"
	v2 "github.com/RichardKnop/machinery/v2"
	v2amqpbackend "github.com/RichardKnop/machinery/v2/backends/amqp"
	v2backend "github.com/RichardKnop/machinery/v2/backends/iface"
	v2redisbackend "github.com/RichardKnop/machinery/v2/backends/redis"
	v2result "github.com/RichardKnop/machinery/v2/backends/result"
	v2amqpbroker "github.com/RichardKnop/machinery/v2/brokers/amqp"
	v2broker "github.com/RichardKnop/machinery/v2/brokers/iface"
	v2redisbroker "github.com/RichardKnop/machinery/v2/brokers/redis"
	v2config "github.com/RichardKnop/machinery/v2/config"
	v2lock "github.com/RichardKnop/machinery/v2/locks/eager"
	v2ilock "github.com/RichardKnop/machinery/v2/locks/iface"
	v2redislock "github.com/RichardKnop/machinery/v2/locks/redis"
	v2log "github.com/RichardKnop/machinery/v2/log"
	"github.com/RichardKnop/machinery/v2/tasks"
)

type Sig = tasks.Signature

// getter is any of machinery's results.
type getter interface {
	GetWithTimeout(timeout, sleep time.Duration) ([]reflect.Value, error)
}

// machinery is a server of either version.
type machinery interface {
	register(tasks map[string]any) error
	sendTask(sig *Sig) (getter, error)
	sendChain(links []*Sig) (getter, error)
	sendGroup(members []*Sig, concurrency int) error
	sendChord(members []*Sig, callback *Sig, concurrency int) (getter, error)
	// What others sent.
	result(id string) getter
	chainResult(ids []string) getter
	chordResult(ids []string, callback string) getter
	pending(queue string) ([]string, error)
	// Starts a worker (queue "": the default one); the function stops it.
	work(tag string, concurrency int, queue string) (stop func())
	// What a handler may use of the version that it runs under.
	signatureOf(ctx context.Context) (id, name string, headers map[string]any)
	retryLater(why string, pause time.Duration) error
}

// serverOptions is what both versions are configured by.
type serverOptions struct {
	broker, backend string // URLs
	queue           string // default queue, exchange and binding key
	bindingKey      string // "": queue
	declareArgs     map[string]any
	prefetch        int
	lock            string // URL of Redis; "": none. v2 only.
}

func (o serverOptions) key() string {
	if o.bindingKey != "" {
		return o.bindingKey
	}
	return o.queue
}

func newMachinery(version string, options serverOptions) (machinery, error) {
	if version == "v1" {
		return newV1(options)
	}
	return newV2(options)
}

// machinery tells about each task that a worker does not know, thousands a
// second in a mixed fleet. INTEROP_GO_LOG names a file for its warnings and
// errors.
func silence() {
	quiet := stdlog.New(io.Discard, "", 0)
	troubles := quiet
	if name := os.Getenv("INTEROP_GO_LOG"); name != "" {
		file, err := os.Create(name)
		if err != nil {
			panic(err)
		}
		troubles = stdlog.New(file, "", stdlog.Ltime|stdlog.Lmicroseconds)
	}
	v1log.SetDebug(quiet)
	v2log.SetDebug(quiet)
	v1log.SetInfo(quiet)
	v2log.SetInfo(quiet)
	v1log.SetWarning(troubles)
	v2log.SetWarning(troubles)
	v1log.SetError(troubles)
	v2log.SetError(troubles)
}

func newID(prefix string) string { return prefix + uuid.NewString() }

func idsOf(sigs []*Sig) []string {
	ids := make([]string, len(sigs))
	for i, sig := range sigs {
		ids[i] = sig.UUID
	}
	return ids
}

// ---- v2

type machineryV2 struct {
	server  *v2.Server
	options serverOptions
}

// host:port and database number of a redis:// URL.
func splitRedis(url string) (host string, db int) {
	rest := strings.TrimPrefix(url, "redis://")
	host, number, _ := strings.Cut(rest, "/")
	fmt.Sscan(number, &db)
	return host, db
}

func newV2(options serverOptions) (machinery, error) {
	cnf := &v2config.Config{
		Broker:          options.broker,
		ResultBackend:   options.backend,
		DefaultQueue:    options.queue,
		ResultsExpireIn: 3600,
		NoUnixSignals:   true,
		AMQP: &v2config.AMQPConfig{
			Exchange:         options.queue,
			ExchangeType:     "direct",
			BindingKey:       options.key(),
			PrefetchCount:    options.prefetch,
			QueueDeclareArgs: options.declareArgs,
		},
		Redis: &v2config.RedisConfig{
			MaxIdle: 20, NormalTasksPollPeriod: 1000, DelayedTasksPollPeriod: 20,
		},
	}
	var broker v2broker.Broker
	if strings.HasPrefix(options.broker, "amqp") {
		broker = v2amqpbroker.New(cnf)
	} else {
		host, db := splitRedis(options.broker)
		broker = v2redisbroker.New(cnf, host, "", "", "", db)
	}
	var backend v2backend.Backend
	if strings.HasPrefix(options.backend, "amqp") {
		backend = v2amqpbackend.New(cnf)
	} else {
		host, db := splitRedis(options.backend)
		backend = v2redisbackend.New(cnf, host, "", "", "", db)
	}
	var lock v2ilock.Lock = v2lock.New()
	if options.lock != "" {
		host, db := splitRedis(options.lock)
		lock = v2redislock.New(cnf, []string{host}, db, 3)
	}
	return &machineryV2{v2.NewServer(cnf, broker, backend, lock), options}, nil
}

func (m *machineryV2) register(tasks map[string]any) error {
	return m.server.RegisterTasks(tasks)
}

func (m *machineryV2) sendTask(sig *Sig) (getter, error) { return m.server.SendTask(sig) }

func (m *machineryV2) sendChain(links []*Sig) (getter, error) {
	chain, err := tasks.NewChain(links...)
	if err != nil {
		return nil, err
	}
	return m.server.SendChain(chain)
}

func (m *machineryV2) sendGroup(members []*Sig, concurrency int) error {
	group, err := tasks.NewGroup(members...)
	if err != nil {
		return err
	}
	_, err = m.server.SendGroup(group, concurrency)
	return err
}

func (m *machineryV2) sendChord(members []*Sig, callback *Sig, concurrency int) (getter, error) {
	group, err := tasks.NewGroup(members...)
	if err != nil {
		return nil, err
	}
	chord, err := tasks.NewChord(group, callback)
	if err != nil {
		return nil, err
	}
	return m.server.SendChord(chord, concurrency)
}

func named(ids []string) []*Sig {
	sigs := make([]*Sig, len(ids))
	for i, id := range ids {
		sigs[i] = &Sig{UUID: id}
	}
	return sigs
}

func (m *machineryV2) result(id string) getter {
	return v2result.NewAsyncResult(&Sig{UUID: id}, m.server.GetBackend())
}

func (m *machineryV2) chainResult(ids []string) getter {
	return v2result.NewChainAsyncResult(named(ids), m.server.GetBackend())
}

func (m *machineryV2) chordResult(ids []string, callback string) getter {
	return v2result.NewChordAsyncResult(named(ids), &Sig{UUID: callback}, m.server.GetBackend())
}

func (m *machineryV2) pending(queue string) ([]string, error) {
	sigs, err := m.server.GetBroker().GetPendingTasks(queue)
	return idsOf(sigs), err
}

func (m *machineryV2) work(tag string, concurrency int, queue string) func() {
	worker := m.server.NewCustomQueueWorker(tag, concurrency, queue)
	ended := make(chan error, 1)
	worker.LaunchAsync(ended)
	return worker.Quit
}

func (m *machineryV2) signatureOf(ctx context.Context) (string, string, map[string]any) {
	sig := tasks.SignatureFromContext(ctx)
	return sig.UUID, sig.Name, sig.Headers
}

func (m *machineryV2) retryLater(why string, pause time.Duration) error {
	return tasks.NewErrRetryTaskLater(why, pause)
}

// ---- v1

type machineryV1 struct {
	server *v1.Server
}

func newV1(options serverOptions) (machinery, error) {
	server, err := v1.NewServer(&v1config.Config{
		Broker:          options.broker,
		ResultBackend:   options.backend,
		DefaultQueue:    options.queue,
		ResultsExpireIn: 3600,
		NoUnixSignals:   true,
		AMQP: &v1config.AMQPConfig{
			Exchange:         options.queue,
			ExchangeType:     "direct",
			BindingKey:       options.key(),
			PrefetchCount:    options.prefetch,
			QueueDeclareArgs: options.declareArgs,
		},
		Redis: &v1config.RedisConfig{
			MaxIdle: 20, NormalTasksPollPeriod: 1000, DelayedTasksPollPeriod: 20,
		},
	})
	if err != nil {
		return nil, err
	}
	return &machineryV1{server}, nil
}

func toV1(sig *Sig) *v1tasks.Signature {
	if sig == nil {
		return nil
	}
	var args []v1tasks.Arg
	for _, arg := range sig.Args {
		args = append(args, v1tasks.Arg(arg))
	}
	return &v1tasks.Signature{
		UUID: sig.UUID, Name: sig.Name, RoutingKey: sig.RoutingKey, ETA: sig.ETA,
		GroupUUID: sig.GroupUUID, GroupTaskCount: sig.GroupTaskCount, Args: args,
		Headers: v1tasks.Headers(sig.Headers), Priority: sig.Priority,
		Immutable: sig.Immutable, RetryCount: sig.RetryCount,
		RetryTimeout: sig.RetryTimeout, OnSuccess: toV1s(sig.OnSuccess),
		OnError: toV1s(sig.OnError), ChordCallback: toV1(sig.ChordCallback),
		BrokerMessageGroupId:        sig.BrokerMessageGroupId,
		SQSReceiptHandle:            sig.SQSReceiptHandle,
		StopTaskDeletionOnError:     sig.StopTaskDeletionOnError,
		IgnoreWhenTaskNotRegistered: sig.IgnoreWhenTaskNotRegistered,
	}
}

func toV1s(sigs []*Sig) []*v1tasks.Signature {
	var out []*v1tasks.Signature
	for _, sig := range sigs {
		out = append(out, toV1(sig))
	}
	return out
}

func (m *machineryV1) register(tasks map[string]any) error {
	return m.server.RegisterTasks(tasks)
}

func (m *machineryV1) sendTask(sig *Sig) (getter, error) {
	return m.server.SendTask(toV1(sig))
}

func (m *machineryV1) sendChain(links []*Sig) (getter, error) {
	chain, err := v1tasks.NewChain(toV1s(links)...)
	if err != nil {
		return nil, err
	}
	return m.server.SendChain(chain)
}

// newGroup keeps the caller's signatures true: NewGroup names the group.
func newGroup(members []*Sig) (*v1tasks.Group, error) {
	group, err := v1tasks.NewGroup(toV1s(members)...)
	if err != nil {
		return nil, err
	}
	for _, member := range members {
		member.GroupUUID = group.GroupUUID
		member.GroupTaskCount = len(members)
	}
	return group, nil
}

func (m *machineryV1) sendGroup(members []*Sig, concurrency int) error {
	group, err := newGroup(members)
	if err != nil {
		return err
	}
	_, err = m.server.SendGroup(group, concurrency)
	return err
}

func (m *machineryV1) sendChord(members []*Sig, callback *Sig, concurrency int) (getter, error) {
	group, err := newGroup(members)
	if err != nil {
		return nil, err
	}
	chord, err := v1tasks.NewChord(group, toV1(callback))
	if err != nil {
		return nil, err
	}
	return m.server.SendChord(chord, concurrency)
}

func (m *machineryV1) result(id string) getter {
	return v1result.NewAsyncResult(&v1tasks.Signature{UUID: id}, m.server.GetBackend())
}

func (m *machineryV1) chainResult(ids []string) getter {
	return v1result.NewChainAsyncResult(toV1s(named(ids)), m.server.GetBackend())
}

func (m *machineryV1) chordResult(ids []string, callback string) getter {
	return v1result.NewChordAsyncResult(toV1s(named(ids)), &v1tasks.Signature{UUID: callback}, m.server.GetBackend())
}

func (m *machineryV1) pending(queue string) ([]string, error) {
	sigs, err := m.server.GetBroker().GetPendingTasks(queue)
	ids := make([]string, len(sigs))
	for i, sig := range sigs {
		ids[i] = sig.UUID
	}
	return ids, err
}

func (m *machineryV1) work(tag string, concurrency int, queue string) func() {
	worker := m.server.NewCustomQueueWorker(tag, concurrency, queue)
	ended := make(chan error, 1)
	worker.LaunchAsync(ended)
	return worker.Quit
}

func (m *machineryV1) signatureOf(ctx context.Context) (string, string, map[string]any) {
	sig := v1tasks.SignatureFromContext(ctx)
	return sig.UUID, sig.Name, sig.Headers
}

func (m *machineryV1) retryLater(why string, pause time.Duration) error {
	return v1tasks.NewErrRetryTaskLater(why, pause)
}
