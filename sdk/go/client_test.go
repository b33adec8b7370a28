package penstock

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "penstock.dev/sdk/go/penstock/v1"
)

func TestASendIsRepeatedUnderOneRequestID(t *testing.T) {
	fake := startFake(t)
	fake.onSend = func(n int) error {
		return []error{refuse(codes.Unavailable, BrokerNack), refuse(codes.DeadlineExceeded, ConfirmTimeout),
			refuse(codes.Aborted, GroupPartiallySent), status.Error(codes.Canceled, "CANCELLED"), nil, nil}[n]
	}
	client := newTestClient(t, fake.address)
	task, err := client.Send(testContext(t), "add", 1)
	if err != nil || task.ID != "task_1" {
		t.Fatal(task, err)
	}
	if _, err := client.Send(testContext(t), "add", 1); err != nil {
		t.Fatal(err)
	}
	sends := seen(fake, &fake.sends)
	if len(sends) != 6 {
		t.Fatalf("%d calls", len(sends))
	}
	for _, send := range sends[:5] {
		if send.RequestId == "" || send.RequestId != sends[0].RequestId {
			t.Errorf("request ids %q and %q", sends[0].RequestId, send.RequestId)
		}
	}
	if sends[5].RequestId == sends[0].RequestId {
		t.Error("two calls have one request id")
	}
}

func TestARunIsOneCall(t *testing.T) {
	fake := startFake(t)
	fake.onSend = func(n int) error {
		return []error{refuse(codes.Unavailable, Draining), nil}[n]
	}
	fake.sendState = stateAt("task_1", success, intValue("int64", 3))
	state, err := newTestClient(t, fake.address).Run(testContext(t), NewTask("add", 1, 2))
	var sum int
	if err != nil || state.Result(&sum) != nil || sum != 3 {
		t.Fatal(state, err)
	}
	sends := seen(fake, &fake.sends)
	if len(sends) != 2 || sends[0].RequestId != sends[1].RequestId {
		t.Error(sends)
	}
	if wait := sends[1].Wait.AsDuration(); wait < 10*time.Second || wait > 20*time.Second {
		t.Error(wait) // as long as the context lasts
	}
}

func TestARunThatHasNotEndedIsWaitedFor(t *testing.T) {
	fake := startFake(t)
	fake.onRead = func(context.Context, int, *pb.GetStateRequest) (*pb.TaskState, error) {
		return stateAt("task_1", success, intValue("int64", 3)), nil
	}
	client := newTestClient(t, fake.address)
	for _, fake.sendState = range []*pb.TaskState{nil, stateAt("task_1", started)} {
		state, err := client.Run(testContext(t), NewTask("add"))
		if err != nil || state.Status != Success {
			t.Error(state, err)
		}
	}
	if n := len(seen(fake, &fake.reads)); n != 2 {
		t.Errorf("%d reads", n)
	}
}

func TestARunThatIsOverWrapsTheContextsError(t *testing.T) {
	fake := startFake(t)
	fake.sendState = stateAt("task_1", started)
	fake.onRead = func(ctx context.Context, _ int, request *pb.GetStateRequest) (*pb.TaskState, error) {
		sleep(ctx, request.Wait.AsDuration())
		return stateAt("task_1", started), nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if _, err := newTestClient(t, fake.address).Run(ctx, NewTask("add")); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestWhatCannotPassIsNotRepeated(t *testing.T) {
	for _, failure := range []error{refuse(codes.InvalidArgument, InvalidField),
		refuse(codes.ResourceExhausted, PayloadTooLarge), status.Error(codes.DeadlineExceeded, "late"),
		refuse(codes.Internal, "INTERNAL")} {
		fake := startFake(t)
		fake.onSend = func(int) error { return failure }
		client := newTestClient(t, fake.address)
		_, err := client.Send(testContext(t), "add")
		if n := len(seen(fake, &fake.sends)); n != 1 || status.Code(err) != status.Code(failure) {
			t.Errorf("%v: %d calls, %v", failure, n, err)
		}
	}
}

func TestABusyGatewaySaysWhenToComeBack(t *testing.T) {
	const delay = 300 * time.Millisecond
	fake := startFake(t)
	fake.onSend = func(n int) error {
		if n == 0 {
			return refuse(codes.ResourceExhausted, TooManyInFlight, retryAfter(delay))
		}
		return nil
	}
	client := newTestClient(t, fake.address)
	begin := time.Now()
	if _, err := client.Send(testContext(t), "add"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < delay {
		t.Errorf("came back after %v", took)
	}
}

func TestTheRetryBudgetEnds(t *testing.T) {
	fake := startFake(t)
	fake.onSend = func(int) error { return refuse(codes.Unavailable, Draining) }
	for _, c := range []struct {
		budget         time.Duration
		atLeast, below int
	}{{0, 1, 2}, {400 * time.Millisecond, 3, 16}} {
		before := len(seen(fake, &fake.sends))
		client := newTestClient(t, fake.address, WithRetryBudget(c.budget))
		_, err := client.Send(testContext(t), "add")
		if !errors.Is(err, Draining) {
			t.Error(err)
		}
		if n := len(seen(fake, &fake.sends)) - before; n < c.atLeast || n >= c.below {
			t.Errorf("budget %v: %d calls", c.budget, n)
		}
	}
}

func TestACallHasADeadline(t *testing.T) {
	fake := startFake(t)
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	fake.onSend = func(int) error { <-hang; return nil }
	client := newTestClient(t, fake.address, WithCallTimeout(100*time.Millisecond))
	_, err := client.Send(context.Background(), "add")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	client = newTestClient(t, fake.address)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := client.Send(ctx, "add"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if n := len(seen(fake, &fake.sends)); n != 2 {
		t.Errorf("%d calls", n)
	}
}

func TestErrorsTellAllThatTheGatewaySays(t *testing.T) {
	fake := startFake(t)
	fake.onSend = func(int) error {
		return refuse(codes.InvalidArgument, InvalidField, &errdetails.BadRequest{
			FieldViolations: []*errdetails.BadRequest_FieldViolation{
				{Field: "task.name", Description: "is required"}}})
	}
	_, err := newTestClient(t, fake.address).Send(testContext(t), "")
	var failed *Error
	if !errors.As(err, &failed) {
		t.Fatal(err)
	}
	if failed.Code != codes.InvalidArgument || failed.Reason != InvalidField ||
		failed.Message != "told by the test" || failed.Metadata["task_id"] != "other" ||
		len(failed.Violations) != 1 || failed.Violations[0] != (FieldViolation{"task.name", "is required"}) {
		t.Errorf("%+v", failed)
	}
	if !errors.Is(err, InvalidField) || errors.Is(err, TaskNotFound) || errors.Is(err, context.Canceled) {
		t.Error("errors.Is")
	}
	if status.Code(err) != codes.InvalidArgument {
		t.Error("status.Code")
	}
	if want := "penstock: INVALID_ARGUMENT INVALID_FIELD: told by the test"; err.Error() != want {
		t.Error(err)
	}
}

func TestMetadataGoesWithEveryCall(t *testing.T) {
	fake := startFake(t)
	client := newTestClient(t, fake.address, WithMetadata("tenant", "north"))
	ctx := metadata.AppendToOutgoingContext(testContext(t), "traceparent", "00-aa-bb-01")
	if _, err := client.Send(ctx, "add"); err != nil {
		t.Fatal(err)
	}
	md := seen(fake, &fake.metadata)[0]
	if got := md.Get("tenant"); len(got) != 1 || got[0] != "north" {
		t.Error(md)
	}
	if got := md.Get("traceparent"); len(got) != 1 || got[0] != "00-aa-bb-01" {
		t.Error(md)
	}
	if _, err := NewClient("localhost:1", WithMetadata("key")); err == nil {
		t.Error("a key without a value was taken")
	}
}

func TestOptionsOfOtherCallsAreRefused(t *testing.T) {
	client := newTestClient(t, "localhost:1")
	var refused *ValueError
	if _, err := client.SendTask(testContext(t), NewTask("add"), GroupID("g")); !errors.As(err, &refused) {
		t.Error(err)
	}
	if _, err := client.SendGroup(testContext(t), nil, OnFailure(NewTask("add"))); !errors.As(err, &refused) {
		t.Error(err)
	}
}

// deadAddress is one where nobody listens.
func deadAddress(t *testing.T) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func TestCallsGoToAllGatewaysButThoseThatAreAway(t *testing.T) {
	one, two := startFake(t), startFake(t)
	client := newTestClient(t, one.address+", "+deadAddress(t)+","+two.address)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if _, err := client.Send(testContext(t), "add"); err != nil {
			t.Fatal(err)
		}
		if len(seen(one, &one.sends)) > 2 && len(seen(two, &two.sends)) > 2 {
			return
		}
	}
	t.Errorf("%d calls went to one, %d to the other", len(seen(one, &one.sends)), len(seen(two, &two.sends)))
}

func TestAGatewayThatComesBackIsFoundWithinTheBudget(t *testing.T) {
	address := deadAddress(t)
	client := newTestClient(t, address, WithRetryBudget(10*time.Second))
	server := grpc.NewServer()
	pb.RegisterGatewayServiceServer(server, &fakeGateway{})
	t.Cleanup(server.Stop)
	time.AfterFunc(300*time.Millisecond, func() {
		if listener, err := net.Listen("tcp", address); err == nil {
			go server.Serve(listener)
		}
	})
	if _, err := client.Send(testContext(t), "add"); err != nil {
		t.Error(err)
	}
}

// writeCertificates makes an authority and a certificate for 127.0.0.1 that it signed,
// which serves both ends; it returns their PEM files.
func writeCertificates(t *testing.T) (ca, cert, key string) {
	t.Helper()
	sign := func(template, parent *x509.Certificate, signer *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if signer == nil {
			signer = key
		}
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		return der, key
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true,
		Subject: pkix.Name{CommonName: "test authority"}, KeyUsage: x509.KeyUsageCertSign}
	authorityDER, authorityKey := sign(authority, authority, nil)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	leafDER, leafKey := sign(leaf, authority, authorityKey)
	keyDER, err := x509.MarshalECPrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	return write("ca.pem", "CERTIFICATE", authorityDER), write("cert.pem", "CERTIFICATE", leafDER),
		write("key.pem", "EC PRIVATE KEY", keyDER)
}

func TestTLSVerifiesBothEnds(t *testing.T) {
	ca, cert, key := writeCertificates(t)
	both, err := LoadTLS(ca, cert, key)
	if err != nil {
		t.Fatal(err)
	}
	server := both.Clone()
	server.ClientCAs, server.ClientAuth = both.RootCAs, tls.RequireAndVerifyClientCert
	fake := startFake(t, grpc.Creds(credentials.NewTLS(server)))
	for _, address := range []string{fake.address, fake.address + "," + fake.address} {
		if _, err := newTestClient(t, address, WithTLS(both)).Send(testContext(t), "add"); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	noCertificate, err := LoadTLS(ca, "", "")
	if err != nil {
		t.Fatal(err)
	}
	for name, config := range map[string]*tls.Config{"no certificate": noCertificate, "no authority": {}} {
		client := newTestClient(t, fake.address, WithTLS(config), WithRetryBudget(0))
		if _, err := client.Send(testContext(t), "add"); err == nil {
			t.Errorf("%s: the gateway was reached", name)
		}
	}
	if _, err := LoadTLS(key, "", ""); err == nil {
		t.Error("a key was taken for an authority")
	}
}
