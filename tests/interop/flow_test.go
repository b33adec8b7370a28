// machinery's own integration tests (integration-tests/suite_test.go there), run
// against a Go worker and against penstock-worker as it is shipped: a Go client
// must not see which one it was.
package interop

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
)

func durationOf(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

// flow does what suite_test.go does, and tells what it saw.
func flow(t *testing.T, m machinery, groups bool) []string {
	c := goClient{m}
	var saw []string
	see := func(what string, out outcome) {
		saw = append(saw, fmt.Sprintf("%s: %#v error %q", what, out.results, out.err))
	}
	see("send task", c.send(t, task("add", 1, 1))())
	see("send list", c.send(t, task("sum", arg("[]int64", []int64{1, 2})))())
	for _, concurrency := range []int{0, 2} {
		if !groups {
			break
		}
		members := []*Sig{task("add", 1, 1), task("add", 2, 2), task("add", 5, 6)}
		c.sendGroup(t, members, concurrency)
		for _, member := range members {
			see(fmt.Sprint("group, concurrency ", concurrency), c.await(t, member.UUID))
		}
	}
	if groups {
		see("chord", c.sendChord(t, []*Sig{task("add", 1, 1), task("add", 2, 2),
			task("add", 5, 6)}, task("multiply"), 10)())
	}
	see("chain", c.sendChain(t, []*Sig{task("add", 2, 2), task("add", 5, 6), task("multiply", 4)})())
	see("just error", c.send(t, task("return_just_error", "Test error", arg("bool", true)))())
	see("no error", c.send(t, task("return_just_error", "", arg("bool", false)))())
	see("several values", c.send(t, task("return_multiple_values", "foo", "bar", arg("bool", false)))())
	see("no values", c.send(t, task("return_multiple_values", "", "", arg("bool", true)))())
	see("panic", c.send(t, task("panic"))())
	eta := time.Now().Add(goDelay).UTC()
	delay := task("delay_test")
	delay.ETA = &eta
	out := c.send(t, delay)()
	if out.err == "" && len(out.results) == 1 {
		out.results[0] = out.results[0].(int64)/1e6 >= eta.UnixMilli()
	}
	see("delay", out)
	return saw
}

func testFlow(t *testing.T, p pair, version string, groups bool) {
	var saw [2][]string
	t.Run("go-worker", func(t *testing.T) {
		f := newFleet(t, p, version, fleetOptions{})
		worker, err := newMachinery(version, f.server)
		if err == nil {
			err = worker.register(flowTasks())
		}
		if err != nil {
			t.Fatal(err)
		}
		f.launch(worker, 0, "")
		saw[0] = flow(t, f.newServer(), groups)
	})
	t.Run("penstock-worker", func(t *testing.T) {
		f := newFleet(t, p, version, fleetOptions{})
		f.start("penstock-worker")
		saw[1] = flow(t, f.newServer(), groups)
	})
	if !reflect.DeepEqual(saw[0], saw[1]) {
		t.Errorf("seen from a Go worker:\n%q\nfrom penstock-worker:\n%q", saw[0], saw[1])
	}
	last := saw[1][len(saw[1])-1]
	if want := `delay: []interface {}{true} error ""`; last != want {
		t.Errorf("got %s, want %s", last, want)
	}
	if want := `chain: []interface {}{60} error ""`; !contains(saw[1], want) {
		t.Errorf("not seen: %s; but %q", want, saw[1])
	}
}

func contains(list []string, wanted string) bool {
	for _, each := range list {
		if each == wanted {
			return true
		}
	}
	return false
}
