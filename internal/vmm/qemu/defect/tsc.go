package defect

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// tscWindow is how long the counter is watched. Two readings of the clock bracket one of the
// counter, rarely more than 0.3 µs apart. So the error is about 15 in a million. The guest's
// kernel tolerates 500.
const tscWindow = 20 * time.Millisecond

// MeasureTSC measures the frequency in kHz of the host's time stamp counter, which an emulated
// guest sees. If the guest's kernel does not get it (EarlyTSC), it calibrates the counter against
// a timer that emulation runs unevenly: about a third of boots hang for ever. It takes 20 ms.
func MeasureTSC(ctx context.Context) (uint64, error) {
	// No time daemon adjusts CLOCK_MONOTONIC_RAW.
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

// readTSC returns the counter and the clock (ns) at nearly the same moment: the best of some tries,
// because each may be interrupted.
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
