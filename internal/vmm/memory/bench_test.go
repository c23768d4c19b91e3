package memory

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkPasses shows the duration of the pause, next to that of the first pass.
func BenchmarkPasses(b *testing.B) {
	g := boot(b, 512<<20, nil)
	if err := unix.Madvise(g.mem, unix.MADV_HUGEPAGE); err != nil { // as QEMU does
		b.Fatal(err)
	}
	for i := range 112 << 20 / pageSize {
		g.page(i)[1] = 1
	}
	var first, last time.Duration
	for b.Loop() {
		out := create(b)
		c, err := begin(b.Context(), g.regions(), nil, out)
		if err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		err = c.First(b.Context())
		between := time.Now()
		if err := errors.Join(err, c.Last(b.Context())); err != nil {
			b.Fatal(err)
		}
		first, last = first+between.Sub(began), last+time.Since(between)
		if err := errors.Join(c.Close(), out.Close(), os.Remove(out.Name())); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(first.Microseconds())/1000/float64(b.N), "ms/first")
	b.ReportMetric(float64(last.Microseconds())/1000/float64(b.N), "ms/last")
}
