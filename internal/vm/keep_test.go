package vm

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"banger/internal/model"
	"banger/internal/vmm"
)

// keeping is a host whose daemons keep booted machines as templates, and build nothing in the
// background.
func keeping(t *testing.T) (*host, *daemon) {
	t.Helper()
	h := newHost(t)
	h.templates.Off, h.keeps = false, true
	d := h.daemon()
	d.busy()
	return h, d
}

// TestKeep checks that the second VM starts from the machine of the first one, which continues.
func TestKeep(t *testing.T) {
	t.Parallel()
	h, d := keeping(t)
	first := d.started(t, model.Create{Name: "a", Env: map[string]string{"SECRET": "1"}})
	h.work(first, "work of a")
	waitFor(t, func() bool { universal, _ := d.templateKinds(t); return universal == 1 })
	wantOrigin(t, first, "")
	h.wantCalls(t, "build do vmm", 0)
	h.wantMachines(t, 1)
	meta, err := os.ReadFile(filepath.Join(h.stored()[0], "meta.json"))
	if err != nil {
		t.Error(err)
	}
	claim(t, !bytes.Contains(meta, []byte("SECRET")),
		"the kept machine's description has the first VM's secret: %s", meta)
	second := d.started(t, model.Create{Name: "b", Image: "other"})
	wantOrigin(t, second, model.FromUniversal)
	h.wantGuest(t, second, "b", 0)
	equal(t, "what the second guest has of the first one's work", h.memoryOf(second).Data, "")
	d.wantContinues(t, first)
}

// TestStartsThatAreNotKept checks which starts do not become templates.
func TestStartsThatAreNotKept(t *testing.T) {
	t.Parallel()
	h, d := keeping(t)
	h.templates.Off = true
	d.die()
	d = h.daemon()
	v := d.started(t, model.Create{Name: "a"})
	if _, err := d.Stop(t.Context(), v.ID, nil, nil); err != nil {
		t.Fatal(err)
	}
	d.die()
	h.templates.Off = false
	d = h.daemon()
	d.busy()
	d.start(t, v.ID) // its disk has been written to
	cold := d.create(t, model.Create{Name: "b"})
	if _, err := d.Start(t.Context(), cold.ID, model.Start{Cold: true}, nil); err != nil {
		t.Fatal(err)
	}
	h.wantCalls(t, "save", 0)
	h.wantStored(t, 0)
}

// TestKeepFails makes the saving of a booted machine fail. The start succeeds, and nothing is
// left.
func TestKeepFails(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{"save", "still"} {
		t.Run(hook, func(t *testing.T) {
			h, d := keeping(t)
			h.failing(hook, errBoom)
			v := d.started(t, model.Create{Name: "a"})
			h.work(v, "work of a")
			d.wantContinues(t, v)
			h.wantStored(t, 0)
			h.failing(hook, nil)
			d.started(t, model.Create{Name: "b"})
			waitFor(t, func() bool { universal, _ := d.templateKinds(t); return universal == 1 })
		})
	}
}

// TestKeepOnAFullDisk checks that a start succeeds when there is no room to keep its machine.
func TestKeepOnAFullDisk(t *testing.T) {
	h, d := keeping(t)
	fill, _ := h.smallFilesystem(h.layout.Cache, 8*model.MiB)
	fill(0)
	v := d.started(t, model.Create{Name: "a"})
	h.work(v, "work of a")
	d.wantContinues(t, v)
	h.waitClosed(t)
	h.wantStored(t, 0)
}

// TestKilledWhileKeeping checks that a killed daemon leaves no unfinished template.
func TestKilledWhileKeeping(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{"save", "still"} {
		t.Run(hook, func(t *testing.T) {
			h, d := keeping(t)
			v, dead := d.create(t, model.Create{Name: "a"}), d
			d = d.killedIn(hook, func(ctx context.Context) { dead.Start(ctx, v.ID, model.Start{}, nil) })
			d.wantState(t, v.ID, model.Failed)
			h.wantMachines(t, 0)
			h.wantStored(t, 0)
			d.busy()
			d.start(t, v.ID)
		})
	}
}

// TestMachineEndsWhileItIsKept ends a machine while it is saved, and then the daemon. No file
// stays open.
func TestMachineEndsWhileItIsKept(t *testing.T) {
	t.Parallel()
	h, d := keeping(t)
	v := d.create(t, model.Create{Name: "a"})
	release := h.hanging("still")
	errs := make(chan error, 1)
	go func() { _, err := d.Start(t.Context(), v.ID, model.Start{}, nil); errs <- err }()
	waitFor(t, func() bool { return h.called("still") > 0 })
	h.end(v, vmm.ExitCrashed)
	release()
	select {
	case err := <-errs:
		if err == nil {
			t.Error("the start succeeded although its machine ended")
		}
	case <-time.After(time.Minute):
		t.Fatal("the start does not end")
	}
	d.die()
	if open := h.openFiles(); slices.ContainsFunc(open, func(path string) bool { return path != h.file }) {
		t.Errorf("the ended daemon still has these files open: %v", open)
	}
}
