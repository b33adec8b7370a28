// Package penstock is a client of Penstock, a task queue: it sends tasks, groups,
// chains and chords to a Penstock gateway, and waits for what becomes of them.
//
//	client, err := penstock.NewClient("localhost:50051")
//	...
//	task, err := client.Send(ctx, "add", 1, 2)
//	...
//	var sum int64
//	err = task.Result(ctx, &sum)
//
// Values: what goes in and out natively is said at [Task] and [Handle.Result].
//
// Errors: a call that failed returns an [*Error] with the gateway's code, reason
// and field violations; a task that failed or was cancelled a [*TaskError]; a value
// that no task takes a [*ValueError]. A wait that its context ended returns an error
// that wraps the context's.
//
// Retries: a call that fails with what may pass (see [WithRetryBudget]) is repeated.
// Every send has a request id, by which the gateways carry it out once, however often
// it is repeated.
//
// Deadlines: a context's deadline is that of the call with all its repeats. A call
// whose context has none has [WithCallTimeout] for each try. Waiting for results and
// watching end with their context alone.
//
// Metadata, such as a trace context: that of the outgoing context
// ([google.golang.org/grpc/metadata.AppendToOutgoingContext]) goes with each call,
// after that of [WithMetadata]. A gateway hands traceparent and tracestate to
// the handlers as headers of the task.
package penstock

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	pb "penstock.dev/sdk/go/penstock/v1"
)

const (
	defaultCallTimeout = 10 * time.Second
	defaultRetryBudget = 30 * time.Second

	// A page of 1,000 states with large results; the gateway's own limits are below.
	maxReceived = 256 << 20
)

// A Client sends tasks to Penstock's gateways. Make one and share it: it is safe for
// use by many goroutines at once, and its calls share one connection to each gateway.
type Client struct {
	conn    *grpc.ClientConn
	gateway pb.GatewayServiceClient
	options options
}

type options struct {
	tls         *tls.Config
	callTimeout time.Duration
	retryBudget time.Duration
	metadata    []string // keys and values in turn
	dial        []grpc.DialOption
}

// An Option changes how a [Client] connects or calls.
type Option func(*options)

// WithTLS encrypts the connections. The zero [tls.Config] trusts the system's roots;
// [LoadTLS] reads one from files. Default: plain text.
func WithTLS(config *tls.Config) Option {
	return func(o *options) { o.tls = config }
}

// WithCallTimeout sets how long one try of a call may take where its context has no
// deadline of its own. Default: 10 s.
func WithCallTimeout(timeout time.Duration) Option {
	return func(o *options) { o.callTimeout = timeout }
}

// WithRetryBudget sets for how long after its first failure a call is repeated: with
// pauses of 50 ms to 2 s, or as long as the gateway asks for. 0: never. Repeated is
// what ends with UNAVAILABLE, or CANCELLED by a gateway that stops, with
// RESOURCE_EXHAUSTED and a time to try again, or with
// the reasons CONFIRM_TIMEOUT and GROUP_PARTIALLY_SENT. Default: 30 s.
func WithRetryBudget(budget time.Duration) Option {
	return func(o *options) { o.retryBudget = budget }
}

// WithMetadata adds metadata to every call: a key, its value, a key, its value.
func WithMetadata(pairs ...string) Option {
	return func(o *options) { o.metadata = append(o.metadata, pairs...) }
}

// WithDialOptions adds options of gRPC's own, such as interceptors or a stats
// handler.
func WithDialOptions(dial ...grpc.DialOption) Option {
	return func(o *options) { o.dial = append(o.dial, dial...) }
}

// LoadTLS makes a TLS configuration of PEM files: the authorities to trust, and the
// client's certificate with its key for gateways that ask for one. An empty caFile
// stands for the system's roots; an empty certFile for no certificate.
func LoadTLS(caFile, certFile, keyFile string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("penstock: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("penstock: no certificate in %s", caFile)
		}
	}
	if certFile != "" {
		certificate, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, fmt.Errorf("penstock: %w", err)
		}
		config.Certificates = []tls.Certificate{certificate}
	}
	return config, nil
}

// NewClient makes a client of the gateways at address: "host:port", several of these
// separated by commas, or a target of gRPC's such as "dns:///penstock:50051". Calls go
// to all gateways in turn, that is to all addresses given and all that a name resolves
// to, without those that are away. It does not wait for a connection: the first call
// does.
func NewClient(address string, opts ...Option) (*Client, error) {
	o := options{callTimeout: defaultCallTimeout, retryBudget: defaultRetryBudget}
	for _, option := range opts {
		option(&o)
	}
	if len(o.metadata)%2 != 0 {
		return nil, fmt.Errorf("penstock: WithMetadata has a key without a value: %q",
			o.metadata[len(o.metadata)-1])
	}
	transport := insecure.NewCredentials()
	if o.tls != nil {
		transport = credentials.NewTLS(o.tls)
	}
	dial := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceived)),
		// A gateway that comes back is found within a call's retries, and one whose
		// host vanished is noticed.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6,
				Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: 20 * time.Second, Timeout: 10 * time.Second}),
	}
	if strings.Contains(address, ",") {
		dial = append(dial, grpc.WithResolvers(fixedAddresses(strings.Split(address, ","))))
		address = fixedScheme + ":///gateways"
	}
	conn, err := grpc.NewClient(address, append(dial, o.dial...)...)
	if err != nil {
		return nil, fmt.Errorf("penstock: %w", err)
	}
	return &Client{conn: conn, gateway: pb.NewGatewayServiceClient(conn), options: o}, nil
}

const fixedScheme = "penstock-gateways"

func fixedAddresses(addresses []string) resolver.Builder {
	var state resolver.State
	for _, address := range addresses {
		address = strings.TrimSpace(address)
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			host = address
		}
		// ServerName is whose certificate TLS expects.
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{
			Addresses: []resolver.Address{{Addr: address, ServerName: host}}})
	}
	builder := manual.NewBuilderWithScheme(fixedScheme)
	builder.InitialState(state)
	return builder
}

// Close ends the connections. Calls that are under way fail.
func (c *Client) Close() error { return c.conn.Close() }

// Conn is the client's connection, for the generated stubs in penstock/v1: for example
// penstockv1.NewAdminServiceClient(client.Conn()), by which schedules are kept. Their
// errors are gRPC's, which [AsError] reads, and their calls are not repeated.
func (c *Client) Conn() grpc.ClientConnInterface { return c.conn }

// Task is the task of an id, which was sent earlier or elsewhere. It calls nothing.
func (c *Client) Task(id string) *Handle { return &Handle{ID: id, client: c} }

// Group is the group of an id, which was sent earlier or elsewhere; its Tasks are not
// known. It calls nothing.
func (c *Client) Group(id string) *GroupHandle { return &GroupHandle{ID: id, client: c} }

// outgoing is ctx with the metadata of every call before its own.
func (c *Client) outgoing(ctx context.Context) context.Context {
	if len(c.options.metadata) == 0 {
		return ctx
	}
	all := metadata.Pairs(c.options.metadata...)
	if own, ok := metadata.FromOutgoingContext(ctx); ok {
		all = metadata.Join(all, own)
	}
	return metadata.NewOutgoingContext(ctx, all)
}
