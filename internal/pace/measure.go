package pace

import (
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Slowness returns how much slower than an ordinary host this host is now: from 1 to Most. It
// computes for some milliseconds. The work's CPU time shows how fast a CPU is, the load shows how
// many share it, and the work's whole time shows what else holds it up, such as a quota.
func Slowness() float64 {
	cpu, wall := spin()
	load, _ := os.ReadFile("/proc/loadavg") // without it, the work alone decides
	return combine(cpu, wall, contention(string(load), runtime.NumCPU()))
}

func combine(cpu, wall time.Duration, contention float64) float64 {
	ofCPU := max(1, float64(cpu)/float64(nominalWork))
	ofAll := float64(wall) / float64(nominalWork)
	return min(max(ofCPU*contention, ofAll), Most)
}

// contention returns how many runnable tasks there are for each CPU, at least 1: the mean of the
// last minute, or now (proc(5), "/proc/loadavg").
func contention(loadavg string, cpus int) float64 {
	var one, five, fifteen float64
	var now int
	if _, err := fmt.Sscanf(loadavg, "%f %f %f %d/", &one, &five, &fifteen, &now); err != nil {
		return 1
	}
	return max(1, max(one, float64(now-1))/float64(max(cpus, 1))) // one is this process
}

// The work is a chain of dependent operations, which no compiler shortens and no cache or vector
// unit speeds up. An ordinary core, of 3 GHz, takes nominalWork for it.
const (
	workSteps   = 1_000_000
	nominalWork = 3 * time.Millisecond
)

// spin does the work and returns its CPU time and its whole time.
func spin() (cpu, wall time.Duration) {
	runtime.LockOSThread() // whose CPU time is measured
	defer runtime.UnlockOSThread()
	began, before := time.Now(), threadTime()
	runtime.KeepAlive(work(workSteps)) // the compiler may not drop it
	wall = time.Since(began)
	return threadTime() - before, wall
}

//go:noinline
func work(steps int) uint64 {
	x := uint64(88172645463325252) // Marsaglia's xorshift64
	for range steps {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
	}
	return x
}

// threadTime returns the CPU time of the calling thread.
func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
