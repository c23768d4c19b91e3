package vm

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"banger/internal/model"
	"banger/internal/vmm"
	"banger/internal/vmm/fake"
)

// A crash copies the host: its files, and its machines with their memory. Goroutines cannot be
// killed, so the crashed daemon continues without effect. When it has ended, the copy is put back.

// crashPoint is the state of a host at one time.
type crashPoint struct {
	copies   map[string]string // of directories
	machines []vmm.Machine
	memories map[string][]byte // by id
	halted   map[string]bool
}

// losePower makes the next crash one of the host: no machine outlives it.
func (h *host) losePower() { h.unplugged = true }

// remember copies the host.
func (h *host) remember() crashPoint {
	h.t.Helper()
	now := crashPoint{
		copies: map[string]string{}, machines: h.computer.Running(), memories: map[string][]byte{}, halted: map[string]bool{},
	}
	if h.unplugged {
		now.machines, h.unplugged = nil, false
	}
	for _, m := range now.machines {
		now.memories[m.ID], now.halted[m.ID] = h.computer.Memory(m.ID), h.computer.Halted(m.ID)
	}
	for _, dir := range []string{h.layout.State, h.layout.Cache, h.layout.Runtime} {
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		now.copies[dir] = filepath.Join(h.t.TempDir(), "copy")
		h.copyAll(dir, now.copies[dir])
	}
	return now
}

// copyAll copies a directory. Something in it may be removed meanwhile, which cp reports as an
// error: then the copy is made again.
func (h *host) copyAll(from, to string) {
	h.t.Helper()
	for tries := 0; ; tries++ {
		out, err := exec.Command("cp", "-a", "--sparse=always", from, to).CombinedOutput()
		if err == nil {
			return
		}
		if tries == 10 {
			h.t.Fatalf("copying %s: %v: %s", from, err, out)
		}
		if err := os.RemoveAll(to); err != nil {
			h.t.Fatal(err)
		}
	}
}

// putBack makes the host what it was.
func (h *host) putBack(then crashPoint) {
	h.t.Helper()
	for _, m := range h.computer.Running() {
		if _, ran := then.memories[m.ID]; !ran {
			h.computer.End(m.ID, vmm.Exit{Reason: vmm.ExitKilled})
		}
	}
	for dir, copied := range then.copies {
		if err := os.RemoveAll(dir); err != nil {
			h.t.Fatal(err)
		}
		h.command("mv", copied, dir)
	}
	d := fake.New(h.computer, fake.Options{})
	for _, m := range then.machines {
		in, err := d.Find(h.t.Context(), m.RunDir)
		if err != nil {
			if in, err = d.Start(h.t.Context(), m, func(vmm.State) error { return nil }); err != nil {
				h.t.Fatal(err)
			}
		}
		if err := h.computer.Reopen(m.ID); err != nil {
			h.t.Fatal(err)
		}
		h.computer.SetMemory(m.ID, then.memories[m.ID])
		p := in.(vmm.Pauser)
		set := p.Resume
		if then.halted[m.ID] {
			set = p.Pause
		}
		if err := set(h.t.Context()); err != nil {
			h.t.Fatal(err)
		}
	}
}

// killedIn begins an operation, kills the daemon when the operation reaches a hook, and starts
// another daemon.
func (d *daemon) killedIn(hook string, do func(context.Context)) *daemon {
	d.t.Helper()
	before := d.called(hook)
	release := d.hanging(hook)
	ctx, cancel := context.WithCancel(d.t.Context())
	over := make(chan struct{})
	go func() { defer close(over); do(ctx) }()
	waitFor(d.t, func() bool {
		select {
		case <-over:
			d.t.Fatalf("the operation ended before it reached the hook %q", hook)
		default:
		}
		return d.called(hook) > before
	})
	return d.killed(func() {
		cancel()
		release()
		<-over
	})
}

// killedAt begins an operation, kills the daemon at its nth hook, and starts another daemon. If
// the operation ends before that hook, killedAt returns "" and the same daemon.
func (d *daemon) killedAt(n int, do func(context.Context)) (hook string, now *daemon) {
	d.t.Helper()
	at := &stopAt{left: n, reached: make(chan struct{}), gate: make(chan struct{})}
	set := func(s *stopAt) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.killAt = s
	}
	set(at)
	ctx, cancel := context.WithCancel(d.t.Context())
	defer cancel()
	over := make(chan struct{})
	go func() { defer close(over); do(ctx) }()
	select {
	case <-over:
		set(nil)
		return "", d
	case <-at.reached:
	}
	now = d.killed(func() {
		set(nil)
		cancel()
		close(at.gate)
		<-over
	})
	return at.name, now
}

// killed kills the daemon and starts another one. unwind ends the operations of the killed daemon.
func (d *daemon) killed(unwind func()) *daemon {
	d.t.Helper()
	then := d.remember()
	d.dead.Store(true)
	unwind()
	d.die()
	d.putBack(then)
	return d.daemon()
}

// TestCrash checks that a crash keeps the host as it was when the daemon was killed, without the
// daemon's later changes.
func TestCrash(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.create(t, model.Create{Name: "a"})
	d.start(t, "a")
	h.work(v, "before")
	files := h.files()
	dead := d
	d = d.killed(func() {
		h.work(v, "after")
		if _, err := dead.Stop(t.Context(), "a", ptr(time.Duration(0)), nil); err == nil {
			t.Error("a dead daemon stopped a VM")
		}
		os.RemoveAll(h.layout.VM(v.ID).Dir)
	})
	h.wantWork(t, v, "before")
	d.wantState(t, "a", model.Running)
	h.wantFiles(t, files)
}
