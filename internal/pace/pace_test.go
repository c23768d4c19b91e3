package pace

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"banger/internal/fault"
)

// after waits for the end of a context on a host of some slowness, and returns when it came.
func after(nominal time.Duration, slowness ...float64) (waited time.Duration, measured int, err error) {
	began := time.Now()
	ctx, cancel := within(context.Background(), nominal, func() float64 {
		s := slowness[min(measured, len(slowness)-1)]
		measured++
		return s
	}, func(waited time.Duration) error {
		return fault.New(fault.Unavailable, "after %v", waited)
	})
	defer cancel()
	<-ctx.Done()
	return time.Since(began), measured, context.Cause(ctx)
}

// TestDeadlineFollowsTheHost checks that a wait takes its nominal time on an ordinary host, and
// longer by the host's slowness on a slow one.
func TestDeadlineFollowsTheHost(t *testing.T) {
	for name, c := range map[string]struct {
		slowness []float64
		want     time.Duration
		measured int
	}{
		"an ordinary host":          {[]float64{1}, 10 * time.Second, 1},
		"a fast host":               {[]float64{0.1}, 10 * time.Second, 1},
		"a slow host":               {[]float64{10}, 100 * time.Second, 2},
		"a host that becomes idle":  {[]float64{5, 1}, 50 * time.Second, 2},
		"a host that becomes busy":  {[]float64{2, 4, 4}, 40 * time.Second, 3},
		"a host that stands still":  {[]float64{1e9}, Most * 10 * time.Second, 2},
		"a measurement that failed": {[]float64{0}, 10 * time.Second, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			waited, measured, err := after(10*time.Second, c.slowness...)
			if waited != c.want {
				t.Errorf("%s: the wait took %v, want %v", name, waited, c.want)
			}
			if measured != c.measured {
				t.Errorf("%s: the host was measured %d times, want %d", name, measured, c.measured)
			}
			if fault.KindOf(err) != fault.Unavailable || !Passed(err) {
				t.Errorf("%s: the cause is %v", name, err)
			}
		})
	}
}

// TestNothingIsMeasuredInTime checks that a wait that ends in time measures nothing.
func TestNothingIsMeasuredInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := within(t.Context(), time.Second, func() float64 { t.Error("the host was measured"); return 1 }, nil)
		time.Sleep(999 * time.Millisecond)
		cancel()
		time.Sleep(time.Minute)
		if !errors.Is(context.Cause(ctx), context.Canceled) {
			t.Errorf("the cause of a cancelled wait is %v", context.Cause(ctx))
		}
		parent, stop := context.WithCancelCause(t.Context())
		ctx, cancel = within(parent, time.Second, func() float64 { t.Error("the host was measured"); return 1 }, nil)
		defer cancel()
		why := errors.New("why")
		stop(why)
		time.Sleep(time.Minute)
		if context.Cause(ctx) != why {
			t.Errorf("the cause is %v, not its parent's", context.Cause(ctx))
		}
	})
}

func TestContextSaysWhatIsMissing(t *testing.T) {
	ctx, cancel := Context(t.Context(), 20*time.Millisecond, "greeting")
	defer cancel()
	<-ctx.Done()
	if err := context.Cause(ctx); fault.KindOf(err) != fault.Unavailable || !Passed(err) {
		t.Errorf("the cause is %v", err)
	}
}

func TestContention(t *testing.T) {
	for load, want := range map[string]float64{
		"0.00 0.00 0.00 1/100 7": 1, "15.0 3.0 1.0 1/100 7": 7.5, "1.0 1.0 1.0 9/100 7": 4,
		"": 1, "many of them": 1, "-1 -1 -1 -1/1 7": 1,
	} {
		if got := contention(load, 2); got != want {
			t.Errorf("with the load %q and 2 CPUs the contention is %v, want %v", load, got, want)
		}
	}
}

func TestCombine(t *testing.T) {
	const n = nominalWork
	for name, c := range map[string]struct {
		cpu, wall  time.Duration
		contention float64
		want       float64
	}{
		"an ordinary host":                 {n, n, 1, 1},
		"a slow CPU":                       {10 * n, 10 * n, 1, 10},
		"a busy host whose work was quick": {n, n, 7.5, 7.5},
		"a quota":                          {n, 8 * n, 1, 8},
		"a fast CPU that many share":       {n / 3, n / 3, 4, 4},
		"slow and busy":                    {10 * n, 10 * n, 10, Most},
	} {
		if got := combine(c.cpu, c.wall, c.contention); got != c.want {
			t.Errorf("%s: the slowness is %v, want %v", name, got, c.want)
		}
	}
}

// TestSlowness measures the host that runs the test. The figure is printed.
func TestSlowness(t *testing.T) {
	cpu, wall := spin()
	t.Logf("the work takes %v of CPU time and %v in all", cpu, wall)
	if s := Slowness(); s > Most || s == 0 {
		t.Errorf("the slowness is %v", s)
	}
	if work(1) == work(2) {
		t.Error("the work does nothing")
	}
}
