package vm

import (
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"banger/internal/model"
	"banger/internal/step"
)

// TestTemplateKeysAreByContent moves the files that a machine boots and gives them other times, as
// a moved home or a linked cache has them: the template of the same content is found.
func TestTemplateKeysAreByContent(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.withTemplates(t, model.Create{})
	d.die()
	moved := filepath.Join(t.TempDir(), "moved")
	copyTo(t, h.file, moved)
	h.file = moved
	d = h.daemon()
	v := d.started(t, model.Create{Name: "a"})
	wantOrigin(t, v, model.FromTemplate)
}

// copyTo copies a file, with a time of its own.
func copyTo(t *testing.T, from, to string) {
	t.Helper()
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(dst, src); err != nil {
		t.Fatal(err)
	}
	if err := dst.Close(); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-48 * time.Hour)
	if err := os.Chtimes(to, old, old); err != nil {
		t.Fatal(err)
	}
}

// meter notes what a manager counts.
type meter struct{ h *host }

func (m meter) note(what string) { _ = m.h.hook(m.h.t.Context(), "count "+what) }

func (m meter) StartDone(origin string, _ time.Duration, steps []step.Record) {
	if len(steps) < len(startSteps) {
		m.note("a start with too few steps")
	}
	m.note("start from " + origin)
}
func (m meter) StartFailed(step string) { m.note("failure in " + step) }
func (m meter) Forked(children int, pause time.Duration) {
	if pause == 0 {
		m.note("a fork without a pause")
	}
	m.note("fork of " + string(rune('0'+children)))
}
func (m meter) Standby(hit bool) {
	m.note(map[bool]string{true: "standby hit", false: "standby miss"}[hit])
}

// TestMeter counts starts by what they began with, failures by their step, forks, and standby.
func TestMeter(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.counts = true
	d := h.withStandby(t, model.Create{})
	if _, err := d.Launch(t.Context(), model.Create{Name: "a"}, func(model.VM) {}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Launch(t.Context(), model.Create{Name: "b"}, func(model.VM) {}, nil); err != nil {
		t.Fatal(err)
	}
	v, err := d.Get("a")
	if err != nil {
		t.Fatal(err)
	}
	d.fork(t, v, model.Fork{Name: "c"})
	d.create(t, model.Create{Name: "d"})
	h.failing("do assume", errBoom)
	if _, err := d.Start(t.Context(), "d", model.Start{Cold: true}, nil); err == nil {
		t.Error("a start succeeded whose guest refuses its identity")
	}
	for what, want := range map[string]int{
		"standby hit": 1, "standby miss": 1, "start from standby": 1, "start from template": 1, "start from fork": 1,
		"fork of 1": 1, "failure in assume": 1, "a start with too few steps": 0, "a fork without a pause": 0,
	} {
		equal(t, "the count of: "+what, h.called("count "+what), want)
	}
}
