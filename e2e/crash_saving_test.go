package e2e

import (
	"context"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"banger/internal/api"
	"banger/internal/model"
	"banger/internal/step"
	"banger/internal/testkit"
)

// TestCrashSaving kills the daemon in each phase of saving a machine and of restoring one. The VM
// continues, or its record says what happened, and nothing is left over.
func TestCrashSaving(t *testing.T) {
	h := forking(t, "0")
	ok(t, h, "template", "build")
	before := h.Snapshot(t)
	ok(t, h, "run", "-d", "--name", "box", "--memory", "256M", "--cold")
	ok(t, h, "exec", "box", "--", "sh", "-c", "echo kept >/dev/shm/memory; "+ticker)
	for _, c := range []struct {
		name, step string
		phase      step.Phase
		call       func(ctx context.Context, c *api.Client, report step.Reporter) error
	}{
		{"fork, saving", "capture", step.Started, forkBox},
		{"fork, saved", "capture", step.Done, forkBox},
		{"snapshot, saving", "capture", step.Started, snapshotBox},
		{"snapshot, storing", "store", step.Started, snapshotBox},
		{"suspend, saving", "memory", step.Started, suspendBox},
		{"suspend, saved", "memory", step.Done, suspendBox},
		{"resume, before the machine", "vmm", step.Started, resumeBox},
		{"resume, with the machine", "agent", step.Started, resumeBox},
		{"template", "template", step.Started, buildOther},
	} {
		t.Run(c.name, func(t *testing.T) {
			resume := c.step == "vmm" || c.step == "agent"
			if resume {
				ok(t, h, "suspend", "box")
			}
			killIn(t, h, c.step, c.phase, c.call)
			var vm model.VM
			testkit.WaitFor(t, time.Minute, "the VM's state is settled", func() bool {
				vm = show(t, h, "box")
				return settled(vm)
			})
			switch vm.State {
			case model.Running:
			case model.Suspended:
				ok(t, h, "resume", "box")
			default:
				t.Fatalf("the VM is %s: %+v", vm.State, vm.LastError)
			}
			equal(t, "memory", ok(t, h, "exec", "box", "--", "cat", "/dev/shm/memory"), "kept\n")
			goesOn(t, h, "box")
			for _, other := range decode[[]model.VM](t, h, "vm", "list") {
				// A child exists as a whole or not at all.
				if other.Spec.Name != "box" {
					t.Logf("%s is %s", other.Spec.Name, other.State)
					ok(t, h, "rm", "-f", other.Spec.Name)
				}
			}
			for _, s := range decode[[]model.Snapshot](t, h, "snapshot", "list") {
				ok(t, h, "snapshot", "delete", s.ID)
			}
			ok(t, h, "template", "list")
		})
	}
	ok(t, h, "template", "prune", "--all", "--yes")
	ok(t, h, "template", "build")
	ok(t, h, "rm", "-f", "box")
	h.CheckNoLeaks(t, before)
}

// TestCrashRestore kills the daemon in each phase of a restore in place. The VM is what it was,
// with its memory, or it is what the snapshot is, with the snapshot's memory.
func TestCrashRestore(t *testing.T) {
	h := forking(t, "0")
	ok(t, h, "template", "build")
	before := h.Snapshot(t)
	ok(t, h, "run", "-d", "--name", "box", "--memory", "256M")
	write := func(text string) {
		ok(t, h, "exec", "box", "--", "sh", "-c", "echo "+text+" >/opt/file; echo "+text+" >/dev/shm/memory; sync")
	}
	write("old")
	ok(t, h, "exec", "box", "--", "sh", "-c", ticker)
	ok(t, h, "snapshot", "create", "box", "--name", "base")
	for _, c := range []struct {
		step  string
		phase step.Phase
	}{
		{"disks", step.Started}, {"disks", step.Done}, {"place", step.Started}, {"place", step.Done}, {"vmm", step.Started},
		{"vmm", step.Done}, {"agent", step.Done}, {"assume", step.Done},
	} {
		t.Run(c.step+" "+string(c.phase), func(t *testing.T) {
			write("new")
			killIn(t, h, c.step, c.phase, func(ctx context.Context, client *api.Client, report step.Reporter) error {
				_, err := client.Snapshots().Restore(ctx, "base", model.Restore{Into: "box"}, api.SnapshotRestore{Force: true}, report)
				return err
			})
			var vm model.VM
			testkit.WaitFor(t, time.Minute, "the VM's state is settled", func() bool {
				vm = show(t, h, "box")
				return settled(vm)
			})
			switch vm.State {
			case model.Running:
			case model.Suspended:
				ok(t, h, "resume", "box")
			default:
				t.Fatalf("the VM is %s: %+v", vm.State, vm.LastError)
			}
			found := ok(t, h, "exec", "box", "--", "cat", "/opt/file", "/dev/shm/memory")
			t.Logf("the VM was %s and has %q", vm.State, found)
			if found != "old\nold\n" && (found != "new\nnew\n" || c.step != "disks") {
				t.Errorf("the VM's disk and memory have %q", found)
			}
			goesOn(t, h, "box")
		})
	}
	ok(t, h, "snapshot", "delete", "base")
	ok(t, h, "template", "prune", "--all", "--yes")
	ok(t, h, "template", "build")
	ok(t, h, "rm", "-f", "box")
	h.CheckNoLeaks(t, before)
}

func forkBox(ctx context.Context, c *api.Client, report step.Reporter) error {
	_, err := c.VMs().Fork(ctx, "box", model.Fork{Count: 2, Name: "kid"}, report)
	return err
}

func snapshotBox(ctx context.Context, c *api.Client, report step.Reporter) error {
	_, err := c.Snapshots().Create(ctx, api.SnapshotCreate{VM: "box", Name: "kept"}, report)
	return err
}

func suspendBox(ctx context.Context, c *api.Client, report step.Reporter) error {
	_, err := c.VMs().Suspend(ctx, "box", report)
	return err
}

func resumeBox(ctx context.Context, c *api.Client, report step.Reporter) error {
	_, err := c.VMs().Resume(ctx, "box", report)
	return err
}

// buildOther makes templates that the test has not made before.
func buildOther(ctx context.Context, c *api.Client, report step.Reporter) error {
	_, err := c.Templates().Build(ctx, model.Create{VCPUs: new(1), Memory: 192 * model.MiB}, report)
	return err
}

// killIn makes a call and kills the daemon in one phase of a step. The call may have ended when the
// signal arrives.
func killIn(t *testing.T, h *testkit.Home, name string, phase step.Phase, call func(context.Context, *api.Client, step.Reporter) error) {
	t.Helper()
	ok(t, h, "daemon", "start")
	pid := daemonPID(t, h)
	client := api.Dial(filepath.Join(h.Dir, "run", "bangerd.sock"))
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	killed := false
	err := call(ctx, client, func(e step.Event) {
		if !killed && e.Step == name && e.Phase == phase {
			killed = true
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	if !killed {
		t.Fatalf("no step %s was %s: %v", name, phase, err)
	}
	awaitDeath(t, h)
}
