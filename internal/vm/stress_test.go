package vm

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"banger/internal/model"
	"banger/internal/testkit"
)

// load is what a process holds that lives through many VMs.
type load struct {
	goroutines, descriptors int
	heap, database          int64 // bytes
}

// measure returns the load while no operation is under way.
func (d *daemon) measure(t *testing.T) load {
	t.Helper()
	d.waitClosed(t)
	d.mu.Lock()
	d.session.calls, d.session.records = nil, map[string]bool{} // what the test itself gathers
	d.mu.Unlock()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	now := load{goroutines: runtime.NumGoroutine(), descriptors: len(fds), heap: int64(m.HeapAlloc)}
	for _, suffix := range []string{"", "-wal"} {
		if info, err := os.Stat(d.layout.Database() + suffix); err == nil {
			now.database += info.Size()
		}
	}
	return now
}

// TestStressCycles creates, starts, stops and deletes VMs many times, several at once. The daemon
// then holds no more than after the first tenth. BANGER_STRESS_CYCLES sets the number.
func TestStressCycles(t *testing.T) {
	cycles := max(testkit.Number(t, "BANGER_STRESS_CYCLES", 200), 10)
	d := newHost(t).daemon()
	d.cycle(t, cycles/10)
	first := d.measure(t)
	d.cycle(t, cycles-cycles/10)
	last := d.measure(t)
	t.Logf("after %d cycles %+v; after %d cycles %+v", cycles/10, first, cycles, last)
	const slack = 8 // goroutines and descriptors of timers and connections
	for _, c := range []struct {
		what        string
		first, last int64
		allowed     int64
	}{
		{"goroutines", int64(first.goroutines), int64(last.goroutines), slack},
		{"descriptors", int64(first.descriptors), int64(last.descriptors), slack},
		{"heap", first.heap, last.heap, 2 << 20},
		{"database", first.database, last.database, 5 << 20}, // SQLite empties its log at 4 MiB
	} {
		if c.last > c.first+c.allowed {
			t.Errorf("%s: %d after the first tenth, %d at the end; at most %d more is allowed", c.what, c.first, c.last, c.allowed)
		}
	}
	if left := d.files(); len(left) > 0 {
		t.Errorf("files are left: %s", strings.Join(left, ", "))
	}
	d.wantMachines(t, 0)
}

// cycle takes n VMs through their whole life, four at a time.
func (d *daemon) cycle(t *testing.T, n int) {
	t.Helper()
	todo := make(chan int)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range todo {
				if err := d.live(t, "vm-"+strconv.Itoa(i)); err != nil {
					t.Errorf("cycle %d: %v", i, err)
				}
			}
		})
	}
	for i := range n {
		todo <- i
	}
	close(todo)
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// live creates, starts, stops and deletes one VM.
func (d *daemon) live(t *testing.T, name string) error {
	v, err := d.Create(t.Context(), model.Create{Name: name}, nil)
	if err != nil {
		return err
	}
	if _, err := d.Start(t.Context(), v.ID, model.Start{}, nil); err != nil {
		return err
	}
	if _, err := d.Stop(t.Context(), v.ID, nil, nil); err != nil {
		return err
	}
	return d.Delete(t.Context(), v.ID, false, nil)
}
