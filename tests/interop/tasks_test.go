// The Go half of the tasks of interop_worker.cc, and the tasks of machinery's
// own integration tests.
package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// runs counts how often the Go workers of a fleet have run each task.
type runs struct {
	mu   sync.Mutex
	byID map[string]int
	file *os.File // of a worker that is a process of its own: "ID NAME" a line
}

func (r *runs) note(id string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byID[id]++
	if r.file != nil {
		fmt.Fprintln(r.file, id, "go")
	}
	return r.byID[id]
}

func (r *runs) of(id string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byID[id]
}

func encode(value any) string {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return "! " + err.Error()
	}
	return strings.TrimSpace(text.String())
}

func sum(numbers ...int64) (total int64) {
	for _, number := range numbers {
		total += number
	}
	return total
}

// testTasks are those of interop_worker.cc, for a worker of m.
func testTasks(m machinery, r *runs) map[string]any {
	type ctx = context.Context
	// Notes the run and returns its number.
	run := func(c ctx) int {
		id, _, _ := m.signatureOf(c)
		return r.note(id)
	}
	plain := map[string]any{
		"who":     func(c ctx) (string, error) { run(c); return "go", nil },
		"nothing": func(c ctx) error { run(c); return nil },
		"now":     func(c ctx) (int64, error) { run(c); return time.Now().UnixNano(), nil },
		"several": func(c ctx, n int64, s string) (int64, string, bool, float64, []string, error) {
			run(c)
			return n, s, true, 0.25, []string{s, ""}, nil
		},
		"add": func(c ctx, numbers ...int64) (int64, error) { run(c); return sum(numbers...), nil },
		"concat": func(c ctx, texts ...string) (string, error) {
			run(c)
			return strings.Join(texts, "|"), nil
		},
		"fail":  func(c ctx, text string) error { run(c); return errors.New(text) },
		"panic": func(c ctx, text string) error { run(c); panic(errors.New(text)) },
		"flaky": func(c ctx, failures int64) (int64, error) {
			attempt := int64(run(c))
			if attempt <= failures {
				return 0, fmt.Errorf("attempt %d failed", attempt)
			}
			return attempt, nil
		},
		"later": func(c ctx, failures, pause int64) (int64, error) {
			attempt := int64(run(c))
			if attempt <= failures {
				return 0, m.retryLater("not yet", time.Duration(pause)*time.Millisecond)
			}
			return attempt, nil
		},
		"nap": func(c ctx, ms int64) (int64, error) {
			run(c)
			time.Sleep(time.Duration(ms) * time.Millisecond)
			return ms, nil
		},
		"headers": func(c ctx) (string, error) {
			run(c)
			_, _, headers := m.signatureOf(c)
			return encode(headers), nil
		},

		"echo.bool":      func(v bool) (bool, error) { return v, nil },
		"echo.int":       func(v int) (int, error) { return v, nil },
		"echo.int8":      func(v int8) (int8, error) { return v, nil },
		"echo.int16":     func(v int16) (int16, error) { return v, nil },
		"echo.int32":     func(v int32) (int32, error) { return v, nil },
		"echo.int64":     func(v int64) (int64, error) { return v, nil },
		"echo.uint":      func(v uint) (uint, error) { return v, nil },
		"echo.uint8":     func(v uint8) (uint8, error) { return v, nil },
		"echo.uint16":    func(v uint16) (uint16, error) { return v, nil },
		"echo.uint32":    func(v uint32) (uint32, error) { return v, nil },
		"echo.uint64":    func(v uint64) (uint64, error) { return v, nil },
		"echo.float32":   func(v float32) (float32, error) { return v, nil },
		"echo.float64":   func(v float64) (float64, error) { return v, nil },
		"echo.string":    func(v string) (string, error) { return v, nil },
		"echo.[]bool":    func(v []bool) ([]bool, error) { return v, nil },
		"echo.[]int":     func(v []int) ([]int, error) { return v, nil },
		"echo.[]int8":    func(v []int8) ([]int8, error) { return v, nil },
		"echo.[]int16":   func(v []int16) ([]int16, error) { return v, nil },
		"echo.[]int32":   func(v []int32) ([]int32, error) { return v, nil },
		"echo.[]int64":   func(v []int64) ([]int64, error) { return v, nil },
		"echo.[]uint":    func(v []uint) ([]uint, error) { return v, nil },
		"echo.[]uint8":   func(v []uint8) ([]uint8, error) { return v, nil },
		"echo.[]uint16":  func(v []uint16) ([]uint16, error) { return v, nil },
		"echo.[]uint32":  func(v []uint32) ([]uint32, error) { return v, nil },
		"echo.[]uint64":  func(v []uint64) ([]uint64, error) { return v, nil },
		"echo.[]float32": func(v []float32) ([]float32, error) { return v, nil },
		"echo.[]float64": func(v []float64) ([]float64, error) { return v, nil },
		"echo.[]string":  func(v []string) ([]string, error) { return v, nil },
		"echo.[]byte":    func(v []byte) ([]byte, error) { return v, nil },
	}
	all := map[string]any{}
	for name, task := range plain {
		all[name] = task
		all["go."+name] = task
	}
	return all
}

// flowTasks are those of machinery's integration tests.
func flowTasks() map[string]any {
	return map[string]any{
		"add": func(args ...int64) (int64, error) { return sum(args...), nil },
		"multiply": func(args ...int64) (int64, error) {
			product := int64(1)
			for _, arg := range args {
				product *= arg
			}
			return product, nil
		},
		"sum": func(numbers []int64) (int64, error) { return sum(numbers...), nil },
		"return_just_error": func(text string, fail bool) error {
			if fail {
				return errors.New(text)
			}
			return nil
		},
		"return_multiple_values": func(a, b string, fail bool) (string, string, error) {
			if fail {
				return "", "", errors.New("some error")
			}
			return a, b, nil
		},
		"panic":      func() (string, error) { panic(errors.New("oops")) },
		"delay_test": func() (int64, error) { return time.Now().UTC().UnixNano(), nil },
	}
}
