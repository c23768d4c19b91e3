package metric

import (
	"context"
	"io"
	"maps"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	bytesEvery   = time.Minute     // between two computations of host bytes
	bytesTimeout = 5 * time.Second // for computing them
)

// Source is what a scrape looks up rather than what was counted.
type Source struct {
	VMs func() map[string]int // number of VMs by state
	// HostBytes returns the bytes on the host's file systems by kind. It is called at most once a
	// minute.
	HostBytes func(ctx context.Context) (map[string]int64, error)
}

// hostBytes is the last result of Source.HostBytes.
type hostBytes struct {
	mu    sync.Mutex
	at    time.Time
	kinds map[string]int64 // nil if they could not be computed
}

// Handler answers each request with all metrics.
func (s *Set) Handler(src Source) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", ContentType)
		_ = s.Write(r.Context(), w, src) // a client that is gone needs no answer
	})
}

// Write writes all metrics to w in the text format.
func (s *Set) Write(ctx context.Context, w io.Writer, src Source) error {
	t := &text{}
	t.head("banger_build_info", "A metric with the value 1, labelled by the versions of banger and Go.", "gauge")
	t.sample("banger_build_info", []string{"version", "goversion"}, []string{s.version, s.gov}, 1)
	if src.VMs != nil {
		writeKinds(t, "banger_vms", "VMs by state.", "state", src.VMs())
	}
	for _, v := range []*vector{
		s.starts, s.startSteps, s.startErrors, s.forks, s.children, s.forkPauses, s.standby, s.agent, s.requests,
	} {
		v.write(t)
	}
	if src.HostBytes != nil {
		if kinds := s.hostBytes(ctx, src); kinds != nil {
			writeKinds(t, "banger_host_bytes",
				"Bytes on the host's file systems by kind, computed at most once a minute.", "kind", kinds)
		}
	}
	s.writeProcess(t)
	_, err := w.Write(t.Bytes())
	return err
}

func writeKinds[N int | int64](t *text, name, help, label string, kinds map[string]N) {
	t.head(name, help, "gauge")
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		t.sample(name, []string{label}, []string{kind}, float64(kinds[kind]))
	}
}

// hostBytes returns the last result, or a new one if that is too old.
func (s *Set) hostBytes(ctx context.Context, src Source) map[string]int64 {
	s.bytes.mu.Lock()
	defer s.bytes.mu.Unlock()
	if !s.bytes.at.IsZero() && time.Since(s.bytes.at) < bytesEvery {
		return s.bytes.kinds
	}
	// A scrape that is given up must not decide what the next ones get.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bytesTimeout)
	defer cancel()
	kinds, err := src.HostBytes(ctx)
	if err != nil {
		kinds = nil
	}
	s.bytes.at, s.bytes.kinds = time.Now(), kinds
	return kinds
}

// writeProcess writes the metrics that every Prometheus client has, under their usual names.
func (s *Set) writeProcess(t *text) {
	t.gauge("go_goroutines", "Number of goroutines that currently exist.", float64(runtime.NumGoroutine()))
	t.gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.",
		float64(s.began.UnixMilli())/1000)
	var usage unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &usage) == nil {
		t.head("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", "counter")
		cpu := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
		t.sample("process_cpu_seconds_total", nil, nil, cpu.Seconds())
	}
	if resident, ok := residentMemory(); ok {
		t.gauge("process_resident_memory_bytes", "Resident memory size in bytes.", float64(resident))
	}
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		open := float64(len(fds) - 1) // one is ReadDir's own
		t.gauge("process_open_fds", "Number of open file descriptors.", open)
	}
}

// residentMemory reads this process's resident bytes (proc(5), statm).
func residentMemory() (int64, bool) {
	data, err := os.ReadFile("/proc/self/statm")
	fields := strings.Fields(string(data))
	if err != nil || len(fields) < 2 {
		return 0, false
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err == nil
}
