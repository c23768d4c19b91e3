package qemu_test

import (
	"bufio"
	"fmt"
	"testing"
	"time"

	"banger/internal/model"
	"banger/internal/vmm"
)

// awake waits until a machine's guest has answered.
func awake(t testing.TB, in vmm.Instance) {
	t.Helper()
	conn, err := in.DialAgent(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answered := make(chan bool)
	go func() { answered <- bufio.NewScanner(conn).Scan() }()
	for ticker := time.NewTicker(5 * time.Millisecond); ; {
		if _, err := fmt.Fprintln(conn, "hello"); err != nil {
			t.Fatal(err)
		}
		select {
		case ok := <-answered:
			if !ok {
				t.Fatal("nothing answers")
			}
			return
		case <-ticker.C:
		}
	}
}

func pss(t testing.TB, in vmm.Instance) float64 {
	t.Helper()
	stats, err := in.(vmm.Statter).Stats()
	if err != nil {
		t.Fatal(err)
	}
	return float64(stats.Memory) / float64(model.MiB)
}

// BenchmarkFork compares a fork with a boot: how long the parent is halted, how long it takes until
// the fork runs and until its guest answers, and the memory of one of four forks.
func BenchmarkFork(b *testing.B) {
	const forks = 4
	m := linux(b)
	m.Memory, m.VCPUs = 512*model.MiB, 2
	began := time.Now()
	parent := start(b, m)
	awake(b, parent)
	b.Logf("cold: answers after %v, %.0f MiB", time.Since(began), pss(b, parent))
	for generation := range 3 {
		outer := b // forks end with it
		b.Run(fmt.Sprintf("generation-%d", generation), func(b *testing.B) {
			var pause, running, answers, memory float64
			for b.Loop() {
				began := time.Now()
				from, saved := save(outer, parent)
				b.Logf("saved in %v: %+v", time.Since(began), saved)
				pause += saved.Pause.Seconds() * 1000
				var list []vmm.Instance
				for range forks {
					began := time.Now()
					fork := linux(outer)
					fork.Memory, fork.VCPUs = m.Memory, m.VCPUs
					in := restore(outer, fork, from)
					running += time.Since(began).Seconds() * 1000 / forks
					awake(b, in)
					answers += time.Since(began).Seconds() * 1000 / forks
					list = append(list, in)
				}
				for _, in := range list {
					memory += pss(b, in) / forks
				}
				for _, in := range list[1:] {
					end(outer, in)
				}
				parent = list[0]
			}
			b.ReportMetric(pause/float64(b.N), "ms-pause")
			b.ReportMetric(running/float64(b.N), "ms-running")
			b.ReportMetric(answers/float64(b.N), "ms-answers")
			b.ReportMetric(memory/float64(b.N), "MiB-each")
		})
	}
}
