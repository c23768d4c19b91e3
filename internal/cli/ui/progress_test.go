package ui

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/internal/step"
)

// stage is a Progress whose clock the test advances.
func stage(width int) (*Progress, *bytes.Buffer, func(time.Duration)) {
	var out bytes.Buffer
	now := time.Unix(0, 0)
	p := NewProgress(&out, func() int { return width }, Style{}, "Pulling alpine:3")
	p.tick = time.Hour // the test draws
	p.now = func() time.Time { return now }
	return p, &out, func(d time.Duration) { now = now.Add(d) }
}

func (p *Progress) view(width int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines(p.now(), width), "\n") + "\n"
}

func TestProgressLines(t *testing.T) {
	p, _, wait := stage(80)
	defer p.Close()
	var b strings.Builder
	shot := func(what string) { fmt.Fprintf(&b, "-- %s --\n%s", what, p.view(79)) }

	p.Report(step.Event{Step: "resolve", Phase: step.Started})
	shot("begun")
	wait(50 * time.Millisecond)
	p.Report(step.Event{Step: "resolve", Phase: step.Done})
	for i := range 3 {
		p.Report(step.Event{Step: fmt.Sprintf("layer %d", i+1), Phase: step.Started, Unit: "bytes", Total: 40 << 20})
	}
	wait(2 * time.Second)
	p.Report(step.Event{Step: "layer 1", Phase: step.Progress, Unit: "bytes", Done: 13 << 20, Total: 40 << 20})
	p.Report(step.Event{Step: "layer 2", Phase: step.Done})
	p.Report(step.Event{Step: "layer 3", Phase: step.Progress, Unit: "bytes", Done: 7 << 20})
	shot("downloading")
	fmt.Fprintf(&b, "-- narrow --\n%s", p.view(40))
	p.Report(step.Event{Step: "layer 1", Phase: step.Failed, Error: "connection\nreset\x1b[2J"})
	p.Report(step.Event{Step: "layer 3", Phase: step.Undone})
	p.Report(step.Event{Step: "convert", Phase: step.Started, Detail: "image to ext4"})
	p.Report(step.Event{Step: "files", Phase: step.Progress, Done: 120, Unit: "files"})
	shot("failing")
	for i := range 20 {
		p.Report(step.Event{Step: fmt.Sprintf("many %d", i), Phase: step.Started})
	}
	shot("too many")
	golden(t, "progress", b.String())
}

func TestProgressOnATerminal(t *testing.T) {
	p, out, wait := stage(80)
	p.Report(step.Event{Step: "a", Phase: step.Started})
	p.redrawForTest()
	if out.Len() > 0 {
		t.Errorf("something short was shown: %q", out)
	}
	wait(time.Second)
	p.redrawForTest()
	p.redrawForTest()
	if got := strings.Count(out.String(), "\x1b[2A"); got != 1 {
		t.Errorf("the second drawing did not begin where the first did: %q", out)
	}
	p.Close()
	p.Close()
	if !strings.HasSuffix(out.String(), "\r\x1b[2A\x1b[J") {
		t.Errorf("the lines were not taken away: %q", out)
	}
	p.Report(step.Event{Step: "late", Phase: step.Started})
	p.redrawForTest()
	if !strings.HasSuffix(out.String(), "\x1b[J") {
		t.Errorf("it draws after its end: %q", out)
	}
}

func (p *Progress) redrawForTest() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.draw()
}

func TestPlainProgress(t *testing.T) {
	p, out, wait := stage(0)
	defer p.Close()
	p.Report(step.Event{Step: "quick", Phase: step.Started})
	p.Report(step.Event{Step: "quick", Phase: step.Done})
	p.Report(step.Event{Step: "layer", Phase: step.Started})
	for i := range 30 {
		wait(time.Second)
		p.Report(step.Event{Step: "layer", Phase: step.Progress, Done: int64(i), Total: 40})
		p.redrawForTest()
	}
	p.Report(step.Event{Step: "layer", Phase: step.Done})
	p.redrawForTest()
	want := "Pulling alpine:3: layer, 5%, 3s\nPulling alpine:3: layer, 30%, 13s\nPulling alpine:3: layer, 55%, 23s\nPulling alpine:3: layer: done in 30.0s\n"
	if out.String() != want {
		t.Errorf("without a terminal, progress is\n%swant\n%s", out, want)
	}
}

func TestPlainProgressDoesNotRepeatItself(t *testing.T) {
	p, out, wait := stage(0)
	defer p.Close()
	p.Report(step.Event{Step: "packages", Phase: step.Started})
	for range 70 {
		wait(time.Second)
		p.redrawForTest()
	}
	if want := "Pulling alpine:3: packages, 3s\nPulling alpine:3: packages, 1m 3s\n"; out.String() != want {
		t.Errorf("progress of a step without news is\n%swant\n%s", out, want)
	}
}

func TestProgressIsSafeForConcurrentUse(t *testing.T) {
	var mu sync.Mutex
	p := NewProgress(lockedWriter{&mu}, func() int { return 80 }, Style{}, "x")
	p.tick = time.Millisecond
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				p.Report(step.Event{Step: fmt.Sprint(i, j), Phase: step.Started})
			}
		})
	}
	wg.Wait()
	p.Close()
	if len(p.tasks) > maxTasks {
		t.Errorf("%d tasks are kept, at most %d may be", len(p.tasks), maxTasks)
	}
}

type lockedWriter struct{ mu *sync.Mutex }

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(p), nil
}

// TestProgressOfAWait checks that a wait is shown at once, because it is reported late, and that
// nothing is left of it when it is over.
func TestProgressOfAWait(t *testing.T) {
	p, out, wait := stage(0)
	p.Report(step.Event{Step: "box memory", Phase: step.Started})
	p.Report(step.Event{Step: "box waiting", Phase: step.Started, Detail: "answer, until about 15:04:05"})
	p.redrawForTest()
	if got, want := out.String(), "Pulling alpine:3: box waiting: answer, until about 15:04:05, 0s\n"; got != want {
		t.Errorf("a wait is written as %q, not %q", got, want)
	}
	wait(2 * time.Second)
	p.Report(step.Event{Step: "box waiting", Phase: step.Done})
	p.redrawForTest()
	if got := strings.Count(out.String(), "\n"); got != 1 {
		t.Errorf("after the wait there is %q", out)
	}
	p.Close()
	p, _, wait = stage(80)
	defer p.Close()
	p.Report(step.Event{Step: "waiting", Phase: step.Started, Detail: "answer"})
	wait(time.Minute)
	p.Report(step.Event{Step: "waiting", Phase: step.Done})
	if got := p.view(79); strings.Contains(got, "waiting") {
		t.Errorf("a terminal still shows a wait that is over: %q", got)
	}
}
