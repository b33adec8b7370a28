// The property test of the wire format: random documents go from one language to
// the other and back, and come back byte for byte.
package interop

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	v1tasks "github.com/RichardKnop/machinery/v1/tasks"
	"github.com/RichardKnop/machinery/v2/tasks"
)

const documents = 5000 // a run, each way

// seed is printed, so that a run can be repeated: INTEROP_SEED.
func seed(t *testing.T) int64 {
	t.Helper()
	value := time.Now().UnixNano()
	if given := os.Getenv("INTEROP_SEED"); given != "" {
		value, _ = strconv.ParseInt(given, 10, 64)
	}
	t.Logf("INTEROP_SEED=%d", value)
	return value
}

// throughCpp passes lines through interop_roundtrip.
func throughCpp(t *testing.T, lines []string, args ...string) []string {
	t.Helper()
	f := &fleet{}
	command := exec.Command(f.binary("interop_roundtrip"), args...)
	command.Stdin = strings.NewReader(strings.Join(append(lines, ""), "\n"))
	var errors bytes.Buffer
	command.Stderr = &errors
	text, err := command.Output()
	if err != nil {
		t.Fatal(err, errors.String())
	}
	var out []string
	scanner := bufio.NewScanner(bytes.NewReader(text))
	scanner.Buffer(nil, 1<<26)
	for scanner.Scan() {
		out = append(out, scanner.Text())
	}
	return out
}

// throughGo reads a document as machinery's brokers and backends do, and writes
// it again. line: "K JSON", as for interop_roundtrip.
func throughGo(version, line string) (string, error) {
	var into any
	switch version + line[:1] {
	case "v1T":
		into = new(v1tasks.Signature)
	case "v1S":
		into = new(v1tasks.TaskState)
	case "v1G":
		into = new(v1tasks.GroupMeta)
	case "v2T":
		into = new(tasks.Signature)
	case "v2S":
		into = new(tasks.TaskState)
	case "v2G":
		into = new(tasks.GroupMeta)
	}
	decoder := json.NewDecoder(strings.NewReader(line[2:]))
	decoder.UseNumber()
	if err := decoder.Decode(into); err != nil {
		return "", err
	}
	text, err := json.Marshal(into)
	return string(text), err
}

// TestRoundTripFromGo: Go -> C++ -> Go.
func TestRoundTripFromGo(t *testing.T) {
	g := &generator{rand.New(rand.NewSource(seed(t)))}
	var lines []string
	for i := 0; i < documents; i++ {
		lines = append(lines, g.document())
	}
	back := throughCpp(t, lines)
	if len(back) != len(lines) {
		t.Fatalf("%d lines came back of %d", len(back), len(lines))
	}
	for i, line := range lines {
		if back[i] != line[2:] {
			t.Fatalf("C++ made of\n%s\nthis:\n%s", line, back[i])
		}
		for _, version := range []string{"v1", "v2"} {
			again, err := throughGo(version, line[:2]+back[i])
			if err != nil || again != back[i] {
				t.Fatalf("Go %s read of C++:\n%s\nand wrote: %v\n%s", version, back[i], err, again)
			}
		}
	}
}

// TestRoundTripFromCpp: C++ -> Go -> C++.
func TestRoundTripFromCpp(t *testing.T) {
	lines := throughCpp(t, nil, "generate", fmt.Sprint(uint64(seed(t))), fmt.Sprint(documents))
	if len(lines) != documents {
		t.Fatalf("C++ generated %d documents of %d", len(lines), documents)
	}
	for _, version := range []string{"v1", "v2"} {
		var again []string
		for _, line := range lines {
			text, err := throughGo(version, line)
			if err != nil || text != line[2:] {
				t.Fatalf("Go %s made of\n%s\nthis: %v\n%s", version, line, err, text)
			}
			again = append(again, line[:2]+text)
		}
		for i, text := range throughCpp(t, again) {
			if text != lines[i][2:] {
				t.Fatalf("C++ made of\n%s\nthis:\n%s", lines[i], text)
			}
		}
	}
}

// TestRoundTripOtherSpellings: C++ writes what Go writes of members in another
// order and letter case, of unknown ones and of white space.
func TestRoundTripOtherSpellings(t *testing.T) {
	g := &generator{rand.New(rand.NewSource(seed(t)))}
	var lines, want []string
	for i := 0; i < documents/5; i++ {
		line := g.document()
		var members map[string]json.RawMessage
		if err := json.Unmarshal([]byte(line[2:]), &members); err != nil {
			t.Fatal(err)
		}
		names := []string{}
		for name := range members {
			names = append(names, name)
		}
		g.Shuffle(len(names), func(a, b int) { names[a], names[b] = names[b], names[a] })
		var text strings.Builder
		text.WriteString(line[:2] + " { ")
		for _, name := range names {
			spelled := name
			switch g.Intn(4) {
			case 0:
				spelled = strings.ToLower(name)
			case 1:
				spelled = strings.ToUpper(name)
			case 2:
				fmt.Fprintf(&text, "\"unknown%d\" : %s ,\t", g.Intn(9), encode(g.anything(3)))
			}
			value := members[name]
			if name == "Headers" || name == "Args" || name == "Results" {
				var indented bytes.Buffer
				json.Indent(&indented, value, "", " ")
				value = bytes.ReplaceAll(indented.Bytes(), []byte("\n"), []byte(" "))
			}
			fmt.Fprintf(&text, "%q : %s ,", spelled, value)
		}
		spelling := strings.TrimSuffix(text.String(), ",") + "} "
		lines = append(lines, spelling)
		expected, err := throughGo("v2", spelling)
		if err != nil {
			t.Fatal(err, spelling)
		}
		want = append(want, expected)
	}
	for i, text := range throughCpp(t, lines) {
		if text != want[i] {
			t.Fatalf("of\n%s\nC++ wrote\n%s\nand Go\n%s", lines[i], text, want[i])
		}
	}
}

type generator struct{ *rand.Rand }

func (g *generator) flip() bool { return g.Intn(2) == 0 }

func (g *generator) document() string {
	var what any
	kind := "T"
	switch g.Intn(5) {
	case 0:
		kind, what = "S", g.state()
	case 1:
		kind, what = "G", g.group()
	default:
		what = g.signature(4)
	}
	text, err := json.Marshal(what)
	if err != nil {
		panic(err)
	}
	return kind + " " + string(text)
}

// text is UTF-8: any other byte is lost on Go's own first hop.
func (g *generator) text() string {
	pieces := []string{"a", " ", "\"", "\\", "/", "<&>", "ä", "漢", "😀", "\u2028", "\u2029",
		"\ufffd", "\ufeff", "\n\r\t", "\b", "\f", "\x00", "\x01", "\x1f", "\x7f", "{", "]", "\\u0041", "e\u0301"}
	var text strings.Builder
	for left := g.Intn(8); left > 0; left-- {
		text.WriteString(pieces[g.Intn(len(pieces))])
	}
	return text.String()
}

func (g *generator) integer() int64 {
	edges := []int64{0, 1, -1, math.MaxInt64, math.MinInt64, math.MaxInt32, 1<<53 + 1}
	if g.flip() {
		return edges[g.Intn(len(edges))]
	}
	return int64(g.Uint64())
}

func (g *generator) double() float64 {
	for {
		value := math.Float64frombits(g.Uint64())
		if g.flip() {
			value = math.Round(g.NormFloat64() * math.Pow(10, float64(g.Intn(25))))
		}
		if !math.IsNaN(value) && !math.IsInf(value, 0) {
			return value
		}
	}
}

func (g *generator) float() float32 {
	for {
		value := math.Float32frombits(g.Uint32())
		if value == value && !math.IsInf(float64(value), 0) {
			return value
		}
	}
}

// number is any number of JSON: machinery passes its text on.
func (g *generator) number() json.Number {
	numbers := []string{"0", "-0", "1.50", "1E5", "1e+05", "-0.0", "1e400", "0.1e-999",
		"123456789012345678901234567890.000", "18446744073709551616"}
	if g.flip() {
		return json.Number(numbers[g.Intn(len(numbers))])
	}
	return json.Number(strconv.FormatFloat(g.double(), "eEfgG"[g.Intn(5)], g.Intn(30)-1, 64))
}

func list[T any](g *generator, element func() T) []T {
	if g.Intn(4) == 0 {
		return nil
	}
	values := make([]T, 0)
	for left := g.Intn(4); left > 0; left-- {
		values = append(values, element())
	}
	return values
}

// typed is an argument of one of the 29 types, or of none of them.
func (g *generator) typed() (string, any) {
	type pick func() (string, any)
	u := g.Uint64
	picks := []pick{
		func() (string, any) { return "bool", g.flip() },
		func() (string, any) { return "int", int(g.integer()) },
		func() (string, any) { return "int8", int8(u()) },
		func() (string, any) { return "int16", int16(u()) },
		func() (string, any) { return "int32", int32(u()) },
		func() (string, any) { return "int64", g.integer() },
		func() (string, any) { return "uint", uint(u()) },
		func() (string, any) { return "uint8", uint8(u()) },
		func() (string, any) { return "uint16", uint16(u()) },
		func() (string, any) { return "uint32", uint32(u()) },
		func() (string, any) { return "uint64", u() },
		func() (string, any) { return "float32", g.float() },
		func() (string, any) { return "float64", g.double() },
		func() (string, any) { return "string", g.text() },
		func() (string, any) { return "[]bool", list(g, g.flip) },
		func() (string, any) { return "[]int", list(g, func() int { return int(g.integer()) }) },
		func() (string, any) { return "[]int8", list(g, func() int8 { return int8(u()) }) },
		func() (string, any) { return "[]int16", list(g, func() int16 { return int16(u()) }) },
		func() (string, any) { return "[]int32", list(g, func() int32 { return int32(u()) }) },
		func() (string, any) { return "[]int64", list(g, g.integer) },
		func() (string, any) { return "[]uint", list(g, func() uint { return uint(u()) }) },
		func() (string, any) { return "[]uint8", list(g, func() uint8 { return uint8(u()) }) },
		func() (string, any) { return "[]byte", list(g, func() byte { return byte(u()) }) },
		func() (string, any) { return "[]uint16", list(g, func() uint16 { return uint16(u()) }) },
		func() (string, any) { return "[]uint32", list(g, func() uint32 { return uint32(u()) }) },
		func() (string, any) { return "[]uint64", list(g, u) },
		func() (string, any) { return "[]float32", list(g, g.float) },
		func() (string, any) { return "[]float64", list(g, g.double) },
		func() (string, any) { return "[]string", list(g, g.text) },
		func() (string, any) { return "float64", g.number() },
		func() (string, any) { return g.text(), g.anything(4) },
	}
	return picks[g.Intn(len(picks))]()
}

// anything is any JSON.
func (g *generator) anything(depth int) any {
	kinds := 8
	if depth == 0 {
		kinds = 6
	}
	switch g.Intn(kinds) {
	case 0:
		return nil
	case 1:
		return g.flip()
	case 2:
		return g.number()
	case 3:
		return g.integer()
	case 4:
		return g.double()
	case 5:
		return g.text()
	case 6:
		return list(g, func() any { return g.anything(depth - 1) })
	}
	members := map[string]any{}
	for left := g.Intn(4); left > 0; left-- {
		members[g.text()] = g.anything(depth - 1)
	}
	return members
}

func (g *generator) time() time.Time {
	at := time.Unix(g.Int63n(250_000_000_000)-60_000_000_000, 0)
	if g.flip() {
		at = at.Add(time.Duration(g.Intn(1_000_000_000)))
	}
	if g.flip() {
		return at.UTC()
	}
	return at.In(time.FixedZone("", (g.Intn(1400)-700)*60))
}

func (g *generator) signature(depth int) *Sig {
	sig := &Sig{
		UUID: g.text(), Name: g.text(), RoutingKey: g.text(), GroupUUID: g.text(),
		GroupTaskCount: int(g.integer()), Priority: uint8(g.Uint64()),
		Immutable: g.flip(), RetryCount: int(g.integer()), RetryTimeout: int(g.integer()),
		BrokerMessageGroupId: g.text(), SQSReceiptHandle: g.text(),
		StopTaskDeletionOnError: g.flip(), IgnoreWhenTaskNotRegistered: g.flip(),
	}
	if g.flip() {
		eta := g.time()
		sig.ETA = &eta
	}
	sig.Args = list(g, func() tasks.Arg {
		kind, value := g.typed()
		return tasks.Arg{Name: g.text(), Type: kind, Value: value}
	})
	if g.flip() {
		sig.Headers = tasks.Headers{}
		for left := g.Intn(4); left > 0; left-- {
			sig.Headers[g.text()] = g.anything(4)
		}
	}
	if depth > 0 {
		nested := func() *Sig { return g.signature(depth - 1) }
		if g.Intn(3) == 0 {
			sig.OnSuccess = list(g, nested)
		}
		if g.Intn(3) == 0 {
			sig.OnError = list(g, nested)
		}
		if g.Intn(3) == 0 {
			sig.ChordCallback = nested()
		}
	}
	return sig
}

func (g *generator) state() *tasks.TaskState {
	states := []string{tasks.StatePending, tasks.StateReceived, tasks.StateStarted,
		tasks.StateRetry, tasks.StateSuccess, tasks.StateFailure, "MYSTERY"}
	return &tasks.TaskState{
		TaskUUID: g.text(), TaskName: g.text(), State: states[g.Intn(len(states))],
		Results: list(g, func() *tasks.TaskResult {
			kind, value := g.typed()
			return &tasks.TaskResult{Type: kind, Value: value}
		}),
		Error: g.text(), CreatedAt: g.time().UTC(), TTL: g.integer(),
	}
}

func (g *generator) group() *tasks.GroupMeta {
	return &tasks.GroupMeta{
		GroupUUID: g.text(), TaskUUIDs: list(g, g.text), ChordTriggered: g.flip(),
		Lock: g.flip(), CreatedAt: g.time().UTC(), TTL: g.integer(),
	}
}
