package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
)

// TestDamagedMemory damages what a suspended VM has kept in each way: it is not resumed, its disks are spared, and its memory can be given up.
func TestDamagedMemory(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"meta.json", "memory", "device"} {
		for _, how := range damages {
			t.Run(file+" "+how.name, func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				d := h.daemon()
				v := d.worker(t, model.Create{Name: "a"})
				d.suspend(t, v)
				how.do(t, filepath.Join(h.layout.VM(v.ID).Suspended(), file))
				for name, err := range map[string]error{
					"resume": second(d.Resume(t.Context(), "a", nil)), "start": second(d.Start(t.Context(), "a", model.Start{}, nil)),
					"stop": second(d.Stop(t.Context(), "a", nil, nil)),
				} {
					if err == nil || !strings.Contains(fault.HintOf(err), "banger vm kill a") {
						t.Errorf("%s: %v, hint %q", name, err, fault.HintOf(err))
					}
				}
				if d.state(t, "a") != model.Suspended || h.running() != 0 {
					t.Errorf("it is %s, %d machines", d.state(t, "a"), h.running())
				}
				if got, err := d.Kill(t.Context(), "a", syscall.SIGKILL); err != nil || got.State != model.Stopped {
					t.Fatalf("killed: %s, %v", got.State, err)
				}
				d.nothingSaved(t)
				d.running(t, "a")
				if g := h.look(v); g.Data != "" || h.onDisk(v) != "work of a" {
					t.Errorf("it has booted with %q in its memory and %q on its disk", g.Data, h.onDisk(v))
				}
			})
		}
	}
}

// TestResumeOfSuspendedFails fails each part of going on from memory. As long as the guest has written nothing, it can be tried again.
func TestResumeOfSuspendedFails(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{
		"store starting", "do preflight", "do initramfs", "shape", "do prepare/two", "restore", "do vmm", "do agent", "thaw", "do post-start/one", "store running",
	} {
		for _, wrote := range []bool{false, true} {
			if wrote && hook != "thaw" && hook != "do post-start/one" && hook != "store running" {
				continue // it has not run yet
			}
			t.Run(fmt.Sprint(hook, " wrote ", wrote), func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				d := h.daemon()
				v := d.worker(t, model.Create{Name: "a"})
				d.suspend(t, v)
				before := h.files()
				errs := make(chan error, 1)
				calls := h.called(hook)
				h.failing(hook, errBoom)
				release := h.hanging(hook)
				go func() { _, err := d.Resume(t.Context(), "a", nil); errs <- err }()
				waitFor(t, func() bool { return h.called(hook) > calls })
				if wrote {
					h.work(v, "work of a")
					past := time.Now().Add(-time.Hour) // the host's clock was set
					if err := os.Chtimes(h.layout.VM(v.ID).SystemDisk(), past, past); err != nil {
						t.Error(err)
					}
				}
				release()
				if err := <-errs; !errors.Is(err, errBoom) {
					t.Errorf("got %v", err)
				}
				h.failing(hook, nil)
				if h.running() != 0 {
					t.Errorf("%d machines", h.running())
				}
				if wrote {
					if got, _ := d.Get("a"); got.State != model.Failed || got.LastError == nil {
						t.Fatalf("%s, %+v", got.State, got.LastError)
					}
					d.nothingSaved(t)
					d.running(t, "a")
					if g := h.look(v); g.Data != "" || h.onDisk(v) != "work of a" {
						t.Errorf("it has booted with %q in its memory and %q on its disk", g.Data, h.onDisk(v))
					}
					return
				}
				if got := d.state(t, "a"); got != model.Suspended {
					t.Fatalf("it is %s", got)
				}
				if after := h.files(); !slices.Equal(before, after) {
					t.Errorf("files before %v, after %v", before, after)
				}
				d.resume(t, v)
				d.goesOn(t, v)
			})
		}
	}
}

// TestResumeWithoutItsImage, which somebody deleted by hand: it can go on when that is back.
func TestResumeWithoutItsImage(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.suspend(t, v)
	h.delete("id-of-img", true)
	if got, err := d.Resume(t.Context(), "a", nil); fault.KindOf(err) != fault.NotFound || got.State != model.Suspended {
		t.Errorf("%s, %v", got.State, err)
	}
	h.delete("id-of-img", false)
	d.resume(t, v)
	d.goesOn(t, v)
}

// TestCancelledResume has whoever resumes a VM change their mind: a suspended VM stays so, a paused one goes on, because that is quick.
func TestCancelledResume(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.suspend(t, v)
	release := h.hanging("do agent")
	defer release()
	calls := h.called("do agent")
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 1)
	go func() { _, err := d.Resume(ctx, "a", nil); errs <- err }()
	waitFor(t, func() bool { return h.called("do agent") > calls })
	cancel()
	if err := <-errs; fault.KindOf(err) != fault.Canceled || d.state(t, "a") != model.Suspended || h.running() != 0 {
		t.Errorf("%v; it is %s, %d machines", err, d.state(t, "a"), h.running())
	}
	release()
	d.resume(t, v)
	d.goesOn(t, v)
}

// TestForcedDeleteCallsOffAResume does not wait for a guest that does not answer.
func TestForcedDeleteCallsOffAResume(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.suspend(t, v)
	defer h.hanging("do agent")()
	calls := h.called("do agent")
	errs := make(chan error, 1)
	go func() { _, err := d.Resume(t.Context(), "a", nil); errs <- err }()
	waitFor(t, func() bool { return h.called("do agent") > calls })
	if err := d.Delete(t.Context(), "a", true, nil); err != nil {
		t.Error(err)
	}
	if err := <-errs; fault.KindOf(err) != fault.Canceled {
		t.Errorf("the resume ended with %v", err)
	}
	if left := h.files(); len(left) != 0 || h.running() != 0 || len(d.List()) != 0 {
		t.Errorf("left: %v, %d machines", left, h.running())
	}
}

// TestFailedResumeKeepsWhatIsToBeRemoved: a VM that goes when it stops has not stopped yet.
func TestFailedResumeKeepsWhatIsToBeRemoved(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a", Remove: model.RemoveOnStop})
	d.suspend(t, v)
	h.failing("do agent", errBoom)
	if _, err := d.Start(t.Context(), "a", model.Start{}, nil); !errors.Is(err, errBoom) {
		t.Errorf("got %v", err)
	}
	h.failing("do agent", nil)
	d.resume(t, v)
	d.goesOn(t, v)
}
