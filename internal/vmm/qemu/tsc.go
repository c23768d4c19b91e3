package qemu

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// An emulated guest sees the host's time stamp counter. Without being told its frequency (tsc_early_khz) about a third
// of boots hang for ever: the kernel calibrates it against a timer that emulation runs too unevenly.

// tscWindow is how long the counter is watched. A reading is bracketed by two of the clock that are rarely further apart than
// 0.3 µs, so that the error is about 15 in a million; the guest's kernel tolerates 500.
const tscWindow = 20 * time.Millisecond

// measureTSC measures the frequency of the host's time stamp counter in kHz against CLOCK_MONOTONIC_RAW, which no time
// daemon bends.
func measureTSC(ctx context.Context) (uint64, error) {
	ticks0, clock0, err := readTSC()
	if err != nil {
		return 0, err
	}
	timer := time.NewTimer(tscWindow)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return 0, fmt.Errorf("measuring the time stamp counter: %w", context.Cause(ctx))
	}
	ticks1, clock1, err := readTSC()
	if err != nil {
		return 0, err
	}
	ns := uint64(clock1 - clock0)
	if ticks1 <= ticks0 || ns == 0 {
		return 0, fmt.Errorf("measuring the time stamp counter: it went from %d to %d in %d ns", ticks0, ticks1, ns)
	}
	return ((ticks1-ticks0)*1_000_000 + ns/2) / ns, nil
}

// readTSC returns the counter and the clock (ns) at nearly the same moment: the best of some tries, since any may be interrupted.
func readTSC() (ticks uint64, clock int64, err error) {
	const tries = 16
	best := int64(-1)
	for range tries {
		before, err := rawClock()
		if err != nil {
			return 0, 0, err
		}
		now := rdtsc()
		after, err := rawClock()
		if err != nil {
			return 0, 0, err
		}
		if width := after - before; best < 0 || width < best {
			best, ticks, clock = width, now, before+width/2
		}
	}
	return ticks, clock, nil
}

func rawClock() (int64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &now); err != nil {
		return 0, fmt.Errorf("reading CLOCK_MONOTONIC_RAW: %w", err)
	}
	return now.Nano(), nil
}
