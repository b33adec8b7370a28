// Periodic tasks that processes of both kinds have under one name and spec.
package interop

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestPeriodic counts what is sent: at most one task for each second that has
// passed, since the lock is of a tick; without it there would be three.
func TestPeriodic(t *testing.T) {
	const spec, name = "@every 1s", "periodic task"
	f := newFleet(t, pair{"amqp", "redis"}, "v2", fleetOptions{})
	start := time.Now()
	options := f.server
	options.lock = f.server.backend
	m := f.newServerAt(options).(*machineryV2)
	// Without an id, which machinery would use at each tick. It cannot be ended: it
	// goes on until this process ends.
	if err := m.server.RegisterPeriodicTask(spec, name, &Sig{Name: "nothing"}); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 2; i++ {
		f.startWorker("INTEROP_PERIODIC="+spec, "PENSTOCK_LOCK="+options.lock,
			"PENSTOCK_LOCK_PROGRAM="+filepath.Base(os.Args[0]))
	}
	eventually(t, "eight ticks", func() bool { return len(f.runsOf()) >= 8 })
	sent := len(f.runsOf())
	if ticks := time.Now().Unix() - start.Unix(); int64(sent) > ticks {
		t.Errorf("%d tasks were sent in %d ticks", sent, ticks)
	}
	for id, count := range f.runsOf() {
		if count != 1 {
			t.Errorf("%s ran %d times", id, count)
		}
	}
	// Its key may be gone between two ticks.
	want := "machinery_lock_" + filepath.Base(os.Args[0]) + name + spec
	eventually(t, "the lock's key", func() bool {
		keys, _ := f.do("KEYS", "machinery_lock_*").([]any)
		for _, key := range keys {
			if string(key.([]byte)) != want {
				t.Fatalf("%s is not machinery's key", key)
			}
		}
		return len(keys) == 1
	})
}
