package e2e

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/internal/api"
	"banger/internal/testkit"
)

// TestCycles creates, starts, uses, stops and deletes VMs many times, two at once. The daemon then
// holds no more than after the first quarter. BANGER_STRESS_LIVES sets the number of VMs.
func TestCycles(t *testing.T) {
	n := max(testkit.Number(t, "BANGER_STRESS_LIVES", 8), 4)
	h := forking(t, "0")
	ok(t, h, "run", "--rm", "--memory", "128M", "--", "true")
	testkit.WaitFor(t, 5*time.Minute, "the templates are there", func() bool { return len(made(t, h)) == 2 })
	before := h.Snapshot(t)
	cycle(t, h, 0, n/4)
	first := held(t, h)
	cycle(t, h, n/4, n)
	var last map[string]float64
	const mega = 1 << 20
	allowed := map[string]float64{"go_goroutines": 8, "process_open_fds": 8, "process_resident_memory_bytes": 8 * mega}
	flat := func() bool { // connections and timers end a little later
		last = held(t, h)
		for name, more := range allowed {
			if last[name] > first[name]+more {
				return false
			}
		}
		return true
	}
	testkit.WaitFor(t, time.Minute, "the daemon holds no more than before", flat)
	t.Logf("after %d VMs %v; after %d VMs %v", n/4, first, n, last)
	equal(t, "VMs that are left", len(vms(t, h)), 0)
	h.CheckNoLeaks(t, before)
}

// cycle takes the VMs of some numbers through their whole life.
func cycle(t *testing.T, h *testkit.Home, from, to int) {
	t.Helper()
	todo := make(chan string, to-from)
	for i := from; i < to; i++ {
		todo <- "box-" + strconv.Itoa(i)
	}
	close(todo)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for name := range todo {
				for _, line := range []string{
					"vm create --memory 128M --name " + name, "start " + name, "exec " + name + " -- true", "stop " + name, "rm " + name,
				} {
					if r := h.Banger(t, strings.Fields(line)...); r.Code != 0 {
						t.Errorf("banger %s: exit %d: %s", line, r.Code, r.Stderr)
					}
				}
			}
		})
	}
	wg.Wait()
}

// held returns what the daemon holds, by the names of its metrics.
func held(t *testing.T, h *testkit.Home) map[string]float64 {
	t.Helper()
	client := api.Dial(filepath.Join(h.Dir, "run", "bangerd.sock"))
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	text, err := client.Daemon().Metrics(ctx)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseFloat(value, 64); err == nil {
			found[name] = n
		}
	}
	kept := map[string]float64{}
	for _, name := range []string{"go_goroutines", "process_open_fds", "process_resident_memory_bytes"} {
		if kept[name] = found[name]; kept[name] == 0 {
			t.Fatalf("there is no metric %s in\n%s", name, text)
		}
	}
	return kept
}
