// The next times of many specs as the real robfig/cron computes them, frozen in
// cron.golden for tests/unit/cron_test.cc. A line: spec, zone, start, and the
// times after it, all but the first two in Unix seconds; or "refused".
package interop

import (
	"fmt"
	"math/rand"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/robfig/cron/v3"
)

const cronGolden = "cron.golden"

var cronSpecs = []string{
	"57 9 * * ?", "* * * * *", "*/5 * * * *", "3/7 2-20/3 * * *",
	"0 0 1 1 *", "0 0 29 2 *", "0 0 31 * *", "30 2 * * *", "30 1 * * *",
	"0 0 * * *", "0 0 * * 0", "0 3 * * SUN", "0 12 13 * FRI", "0 12 13 * *",
	"15,45 9-17 * * MON-FRI", "0 0 1-7 * mon", "0 0 */2 * MON", "0 0 */1 * MON",
	"0 0 ? * ?", "0 0 1 */3 *", "0 0 31 1,3,5 ?", "59 23 31 12 *",
	"5 4 * JAN,jul SAT", "0 24/1 * * *", "1,,2 * * * *", "+5 * * * *",
	"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight",
	"@hourly", "@every 1s", "@every 90s", "@every 1h30m", "@every 1.5h",
	"@every 1s500ms", "CRON_TZ=Asia/Tokyo 0 6 * * ?", "TZ=UTC 30 2 * * *",
	"CRON_TZ=America/New_York 30 2 * * *", "TZ=Europe/Berlin @daily",
	"CRON_TZ=Australia/Lord_Howe   */20 1-2 * * *", "TZ=UTC @every 5m",
	"", "* * * *", "0 * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *",
	"* * 32 * *", "* * * 13 *", "* * * 0 *", "* * * * 7", "* * * * SUN-MON-TUE",
	"*/0 * * * *", "*/5/5 * * * *", "5-1 * * * *", "a * * * *", "-5 * * * *",
	"@often", "@every", "@every 5", "@every x", "TZ=Nowhere/Land 0 0 * * *",
	"CRON_TZ=../etc/passwd 0 0 * * *", " @daily", "@daily ", "* * * JANUARY *",
	"FRI * * * *", "* * * MON *", "1.5 * * * *",
}

// What days of changed clocks do to a schedule differs from zone to zone: by an
// hour or half of one, at 2:00 or at midnight, in spring or in autumn.
var cronZones = []string{
	"UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo",
	"Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Cairo",
}

var cronStarts = []string{
	"2024-02-28T23:59:59Z", "2024-03-10T06:29:30Z", "2024-03-31T00:59:59.5Z",
	"2024-10-27T00:30:00Z", "2024-11-03T05:45:00Z", "2018-11-04T02:30:00Z",
	"2018-02-17T23:00:00Z", "2025-04-05T14:20:00Z", "2025-10-04T15:00:00Z",
	"2023-12-31T23:59:00Z",
}

func cronLine(spec, zone string, start time.Time) string {
	location, err := time.LoadLocation(zone)
	if err != nil {
		panic(err)
	}
	head := fmt.Sprintf("%s\t%s\t", spec, zone)
	schedule, err := cron.ParseStandard(spec)
	if err != nil {
		return head + "refused"
	}
	out := head + fmt.Sprintf("%d.%09d", start.Unix(), start.Nanosecond())
	for at, i := start.In(location), 0; i < 6; i++ {
		at = schedule.Next(at)
		if at.IsZero() {
			break
		}
		out += fmt.Sprintf(" %d", at.Unix())
	}
	return out
}

// randomField makes a field that is mostly valid.
func randomField(r *rand.Rand, low, high int) string {
	value := func() int { return low + r.Intn(high-low+1) }
	switch r.Intn(8) {
	case 0, 1, 2:
		return "*"
	case 3:
		return fmt.Sprintf("*/%d", 1+r.Intn(high))
	case 4:
		a, b := value(), value()
		return fmt.Sprintf("%d-%d", min(a, b), max(a, b))
	case 5:
		a, b := value(), value()
		return fmt.Sprintf("%d-%d/%d,%d", min(a, b), max(a, b), 1+r.Intn(9), value())
	default:
		return fmt.Sprint(value())
	}
}

func cronLines() string {
	var out strings.Builder
	add := func(spec, zone string, start time.Time) {
		out.WriteString(cronLine(spec, zone, start) + "\n")
	}
	for s, spec := range cronSpecs {
		for z, zone := range cronZones {
			for i := 0; i < 3; i++ {
				text := cronStarts[(s+2*z+3*i)%len(cronStarts)]
				start, err := time.Parse(time.RFC3339Nano, text)
				if err != nil {
					panic(err)
				}
				if line := cronLine(spec, zone, start); strings.HasSuffix(line, "refused") {
					if z+i == 0 {
						out.WriteString(line + "\n")
					}
				} else {
					out.WriteString(line + "\n")
				}
			}
		}
	}
	r := rand.New(rand.NewSource(1))
	for i := 0; i < 800; i++ {
		spec := strings.Join([]string{randomField(r, 0, 59), randomField(r, 0, 23),
			randomField(r, 1, 31), randomField(r, 1, 12), randomField(r, 0, 6)}, " ")
		// Years whose rules no release of tzdata changes any more.
		start := time.Unix(1500000000+r.Int63n(220000000), r.Int63n(2)*500000000)
		add(spec, cronZones[r.Intn(len(cronZones))], start)
	}
	return out.String()
}

// INTEROP_UPDATE_GOLDEN=1 writes the file anew.
func TestCronGolden(t *testing.T) {
	// A spec without a zone holds in the zone of the time that Next is given.
	got := cronLines()
	if os.Getenv("INTEROP_UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(cronGolden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(cronGolden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Fatalf("%s is not what robfig/cron computes: INTEROP_UPDATE_GOLDEN=1 writes it anew", cronGolden)
	}
}
