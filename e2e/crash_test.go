package e2e

import (
	"context"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger/internal/api"
	"banger/internal/model"
	"banger/internal/step"
	"banger/internal/testkit"
)

// TestCrash kills the daemon at the beginning of each step of a start. Under the next daemon the VM
// either runs, or nothing of its run is left. Either way it can be started.
func TestCrash(t *testing.T) {
	h := warm(t)
	ok(t, h, "vm", "create", "--name", "box", "--memory", "256M")
	ok(t, h, "vm", "start", "box")
	vm := show(t, h, "box")
	ok(t, h, "vm", "stop", "box")
	before := h.Snapshot(t)
	var steps []string
	for _, span := range vm.Boot.Steps {
		steps = append(steps, span.Name)
	}
	t.Logf("steps: %q", steps)
	for _, name := range steps {
		t.Run(name, func(t *testing.T) {
			startUntil(t, h, "box", name)
			checkRecovered(t, h, before)
		})
	}
	ok(t, h, "vm", "start", "box")
	equal(t, "stdout", ok(t, h, "exec", "box", "--", "echo", "well"), "well\n")
	ok(t, h, "rm", "--force", "box")
}

// startUntil starts a VM and kills the daemon as soon as the named step has begun.
func startUntil(t *testing.T, h *testkit.Home, vm, name string) {
	t.Helper()
	ok(t, h, "daemon", "start")
	pid := daemonPID(t, h)
	client := api.Dial(filepath.Join(h.Dir, "run", "bangerd.sock"))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var mu sync.Mutex
	var seen []string
	_, err := client.VMs().Start(ctx, vm, model.Start{}, func(e step.Event) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, e.Step)
		if e.Step == name && e.Phase == step.Started {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	mu.Lock()
	defer mu.Unlock()
	if err == nil || !slices.Contains(seen, name) {
		t.Fatalf("the daemon was not killed in %s: %q, %v", name, seen, err)
	}
	awaitDeath(t, h)
}

// checkRecovered starts a new daemon, checks the VM, and stops it if it runs.
func checkRecovered(t *testing.T, h *testkit.Home, before testkit.Host) {
	t.Helper()
	var vm model.VM
	testkit.WaitFor(t, time.Minute, "the VM's state is settled", func() bool {
		vm = show(t, h, "box")
		return settled(vm)
	})
	switch vm.State {
	case model.Running:
		equal(t, "stdout", ok(t, h, "exec", "box", "--", "echo", "came through"), "came through\n")
		ok(t, h, "vm", "stop", "box")
	case model.Stopped, model.Failed:
	default:
		t.Fatalf("the VM is %s: %+v", vm.State, vm.LastError)
	}
	h.CheckNoLeaks(t, before)
}

// TestCrashDeleting kills the daemon during a deletion and during a stop.
func TestCrashDeleting(t *testing.T) {
	h := warm(t)
	ok(t, h, "daemon", "start")
	before := h.Snapshot(t)
	ok(t, h, "run", "-d", "--name", "box")
	_, stop := h.Start(t, "vm", "stop", "box")
	testkit.WaitFor(t, 20*time.Second, "box is stopping", func() bool { return show(t, h, "box").State != model.Running })
	killDaemon(t, h)
	stop.Wait(t)
	testkit.WaitFor(t, time.Minute, "box is settled", func() bool { return settled(show(t, h, "box")) })
	h.Banger(t, "vm", "start", "box")
	_, remove := h.Start(t, "rm", "--force", "box")
	testkit.WaitFor(t, 20*time.Second, "box is being deleted", func() bool {
		list := vms(t, h)
		return len(list) == 0 || list[0].State != model.Running
	})
	killDaemon(t, h)
	remove.Wait(t)
	ok(t, h, "daemon", "start")
	testkit.WaitFor(t, time.Minute, "box is gone or can be deleted", func() bool {
		return len(vms(t, h)) == 0 || h.Banger(t, "rm", "--force", "box").Code == 0
	})
	h.CheckNoLeaks(t, before)
}
