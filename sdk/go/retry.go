package penstock

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	firstPause = 50 * time.Millisecond
	longPause  = 2 * time.Second
)

// The end of a stream that lived so long is a first failure: gateways end their
// connections now and then, however well all is. Tests make it shorter.
var steady = 5 * time.Second

// retries paces the repeats of one call.
type retries struct {
	budget   time.Duration
	failures int
	since    time.Time // of the first failure
}

// succeeded makes the next failure the first one again.
func (r *retries) succeeded() { r.failures = 0 }

// next is how long to pause before the call that failed with e is repeated; false: it
// is not to be.
func (r *retries) next(e *Error) (time.Duration, bool) {
	if !e.mayPass() {
		return 0, false
	}
	if r.failures == 0 {
		r.since = time.Now()
	}
	pause := longPause
	if r.failures < 6 {
		pause = min(firstPause<<r.failures, longPause)
	}
	r.failures++
	// Callers that failed together come back apart.
	pause = max(pause/2+rand.N(pause/2), e.RetryDelay)
	return pause, time.Since(r.since)+pause <= r.budget
}

// again pauses before the call that failed with e is repeated; false: it is not to be,
// or ctx would end first.
func (r *retries) again(ctx context.Context, e *Error) bool {
	if ctx.Err() != nil {
		return false
	}
	pause, ok := r.next(e)
	if !ok {
		return false
	}
	if deadline, has := ctx.Deadline(); has && time.Until(deadline) <= pause {
		return false
	}
	return sleep(ctx, pause)
}

// sleep is false when ctx ended first.
func sleep(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// call makes a call and repeats it as the client's options say. The error is an
// *Error, or nil.
func (c *Client) call(ctx context.Context, try func(context.Context) error) error {
	return c.callWithin(ctx, c.options.callTimeout, false, try)
}

// callWithin is call with a time for each try, `always` also where ctx has a deadline.
func (c *Client) callWithin(ctx context.Context, timeout time.Duration, always bool,
	try func(context.Context) error) error {
	ctx = c.outgoing(ctx)
	_, has := ctx.Deadline()
	retries := retries{budget: c.options.retryBudget}
	for {
		err := func() error {
			if has && !always {
				return try(ctx)
			}
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			return try(ctx)
		}()
		if err == nil {
			return nil
		}
		e := AsError(err)
		if !retries.again(ctx, e) {
			return e
		}
	}
}
