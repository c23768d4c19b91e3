package space

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/testkit"
	"banger/internal/vmm"
)

// host is a file system with machines, and a clock.
type host struct {
	t     *testing.T
	guard *Guard
	watch *watch
	free  model.Bytes
	apart map[string]model.Bytes // free space of file systems of their own, by directory
	now   time.Time
	gave  int // how often others had to give way

	mu     sync.Mutex
	vms    map[string]VM
	halts  map[string]vmm.Halt
	busy   bool // an operation is under way on every VM
	frozen []string
	hung   string // a VM whose VMM does not answer
	mute   string // a VM whose VMM did not answer in time
	// what the mute VMM writes while its answer is awaited
	meanwhile model.Bytes
}

const total = 100 * model.GiB // so the floor is 2 GiB, and VMs continue with 2.5 GiB

func newHost(t *testing.T, reserve string, names ...string) *host {
	t.Helper()
	r, err := model.ParseReserve(reserve)
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, free: total, now: time.Unix(1e9, 0), vms: map[string]VM{}, halts: map[string]vmm.Halt{}}
	for _, name := range names {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		h.vms[name] = VM{ID: name, Name: name, State: model.Running, Memory: 8 * model.MiB, Disks: []string{path}}
	}
	h.restart(r)
	return h
}

// restart gives the host a new guard, as a new daemon has it.
func (h *host) restart(r model.Reserve) {
	h.guard = New(Config{
		Dir: "/state", Reserve: r, Log: slog.New(slog.DiscardHandler),
		GiveWay: func(context.Context) { h.gave++ },
		Also:    []string{"/missing", "/state/vms"},
		Statfs: func(dir string) (FileSystem, error) {
			if dir == "/missing" {
				return FileSystem{}, os.ErrNotExist
			}
			if free, ok := h.apart[dir]; ok {
				return FileSystem{Dev: uint64(slices.Index(slices.Sorted(maps.Keys(h.apart)), dir)) + 1, Free: free, Total: total}, nil
			}
			return FileSystem{Free: h.free, Total: total}, nil
		},
		Now: func() time.Time { return h.now },
	})
	h.watch = newWatch(h.guard, h)
}

func (h *host) look() time.Duration {
	h.now = h.now.Add(farLook)
	defer h.watch.group.Wait()
	return h.watch.look(h.t.Context())
}

// write makes a VM's disk use more space.
func (h *host) write(name string, n model.Bytes) {
	h.t.Helper()
	f, err := os.OpenFile(h.vms[name].Disks[0], os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, n)); err != nil {
		h.t.Fatal(err)
	}
}

// wantHeld checks which VMs are halted, and that the guard reports these as held.
func (h *host) wantHeld(when string, want ...string) {
	h.t.Helper()
	if got := slices.Sorted(maps.Keys(h.halts)); !slices.Equal(got, want) {
		h.t.Errorf("%s, the halted VMs are %q, want %q", when, got, want)
	}
	for name := range h.vms {
		if held := h.guard.Held(name) != nil; held != slices.Contains(want, name) {
			h.t.Errorf("%s, the guard reports that %s is held: %v", when, name, held)
		}
	}
}

// setState records a state of a VM.
func (h *host) setState(name string, s model.State) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := h.vms[name]
	v.State = s
	h.vms[name] = v
}

func (h *host) Writers() []VM {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Values(h.vms))
}

func (h *host) Halted(_ context.Context, id string) (vmm.Halt, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.busy && h.halts[id] == vmm.Halted {
		return vmm.NotHalted, fault.New(fault.Locked, "busy")
	}
	return h.halts[id], nil
}

func (h *host) Hold(ctx context.Context, id string) error {
	if id == h.hung {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	if id == h.mute {
		h.write(id, h.meanwhile)
		return fault.New(fault.Unavailable, "no answer")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.halts[id] = vmm.Halted
	return nil
}

func (h *host) Freeze(_ context.Context, id string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.frozen = append(h.frozen, id)
	h.halts[id] = vmm.Halted
	return nil
}

func (h *host) Release(_ context.Context, id string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.busy {
		return fault.New(fault.Locked, "busy")
	}
	delete(h.halts, id)
	return nil
}

func TestFloor(t *testing.T) {
	h := newHost(t, "auto", "writer", "reader")
	h.look()
	h.write("writer", 8*model.MiB)
	h.look()
	h.wantHeld("above the floor")
	if err := h.guard.Check(); err != nil {
		t.Errorf("above the floor, work is refused: %v", err)
	}

	h.free = 2*model.GiB - 1
	h.look()
	h.wantHeld("below the floor, before anybody writes")
	h.write("writer", 2*model.MiB)
	h.write("reader", 4*model.KiB)
	h.look()
	h.wantHeld("below the floor", "writer")
	if h.gave != 1 {
		t.Errorf("others gave way %d times, want once", h.gave)
	}
	if held := h.guard.Held("writer"); held.Free != h.free || held.Floor != 2*model.GiB || held.Resume != 2560*model.MiB || held.Reason != model.HeldAtFloor {
		t.Errorf("the hold has wrong numbers: %+v", held)
	}
	if err := h.guard.Check(); fault.KindOf(err) != fault.Unavailable || fault.HintOf(err) == "" {
		t.Errorf("below the floor, work is not refused as unavailable with a hint: %v", err)
	}

	h.free = 2*model.GiB + 1
	h.look()
	h.wantHeld("a little above the floor", "writer")
	h.free = 3 * model.GiB
	h.look()
	h.wantHeld("with enough space")
}

// TestOtherFileSystem: a VM is held by the file system that has its disks, with the numbers of that
// file system. What needs space is refused if any of the guard's directories lacks it.
func TestOtherFileSystem(t *testing.T) {
	h := newHost(t, "auto", "here", "there")
	there := filepath.Dir(h.vms["there"].Disks[0])
	h.apart = map[string]model.Bytes{there: total}
	h.look()
	h.apart[there] = model.GiB
	if next := h.look(); next != nearLook {
		t.Errorf("with one file system below the floor, the next look is in %v", next)
	}
	h.write("here", 2*model.MiB)
	h.write("there", 2*model.MiB)
	h.look()
	h.wantHeld("with the other file system below the floor", "there")
	if held := h.guard.Held("there"); held == nil || held.Free != model.GiB {
		t.Errorf("the hold has wrong numbers: %+v", held)
	}
	if err := h.guard.Check(); err != nil {
		t.Errorf("a file system that only one VM uses refuses work: %v", err)
	}
	if err := h.guard.CheckAt(there); fault.KindOf(err) != fault.Unavailable || !strings.Contains(err.Error(), there) {
		t.Errorf("below the floor of that file system: %v; want a refusal that names it", err)
	}
	if h.gave != 0 {
		t.Errorf("others gave way %d times for a file system that they do not use", h.gave)
	}
	h.apart[there], h.free = total, model.GiB
	h.look()
	h.wantHeld("with space there")
	h.write("there", 2*model.MiB)
	h.look()
	h.wantHeld("with the state's file system below the floor")
	h.free, h.apart["/state/vms"] = total, model.GiB
	if err := h.guard.Check(); fault.KindOf(err) != fault.Unavailable || !strings.Contains(err.Error(), "/state/vms") {
		t.Errorf("with the file system of VMs below the floor: %v; want a refusal that names it", err)
	}
}

// TestEachFileSystemIsReported: a file system that stays below the floor does not hide another one
// that falls below it later. One warning stands for all directories of a file system.
func TestEachFileSystemIsReported(t *testing.T) {
	h := newHost(t, "auto", "here", "too", "there")
	there := filepath.Dir(h.vms["there"].Disks[0])
	h.apart = map[string]model.Bytes{there: model.GiB}
	var log bytes.Buffer
	h.guard.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	for _, c := range []struct {
		when  string
		free  model.Bytes
		warns string // the directory
		gave  int
	}{
		{"with the other file system below the floor", total, there, 0},
		{"with no change", total, "", 0},
		{"with the state's file system below the floor, too", model.GiB, "/state", 1},
		{"with still no space", model.GiB, "", 1},
		{"with space for the state again", total, "", 1},
		{"with the state's file system below the floor again", model.GiB, "/state", 2},
	} {
		h.free = c.free
		log.Reset()
		h.look()
		if c.warns == "" && log.Len() > 0 || c.warns != "" && (strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "dir="+c.warns+" ")) {
			t.Errorf("%s, want one warning of %q, or none of \"\"; got:\n%s", c.when, c.warns, &log)
		}
		if h.gave != c.gave {
			t.Errorf("%s, others gave way %d times, want %d", c.when, h.gave, c.gave)
		}
	}
}

// TestHoldIsIgnored: a VMM that was taken over writes although its VM is held. It is stopped, also
// during an operation. A VMM that obeys is not.
func TestHoldIsIgnored(t *testing.T) {
	h := newHost(t, "auto", "hostile", "writer")
	h.look()
	h.free = model.GiB
	h.look()
	h.write("hostile", 2*model.MiB)
	h.write("writer", 2*model.MiB)
	h.look()
	h.look()
	delete(h.halts, "hostile") // it says that it runs
	h.busy = true
	h.write("hostile", 2*model.MiB)
	h.look()
	h.look()
	if !slices.Equal(h.frozen, []string{"hostile"}) {
		t.Errorf("the VMMs of %q were stopped", h.frozen)
	}
	h.busy, h.free = false, 3*model.GiB
	h.look()
	h.wantHeld("with enough space")
}

// TestFullHost: machines that halted by themselves are held, and continue when there is space.
func TestFullHost(t *testing.T) {
	for _, reserve := range []string{"auto", "0"} {
		h := newHost(t, reserve, "stuck", "other")
		h.halts["stuck"] = vmm.HaltedFull
		h.free = 0
		h.look()
		h.wantHeld("on a full host", "stuck")
		if held := h.guard.Held("stuck"); held.Reason != model.HeldFull {
			t.Errorf("the reason is %q, want %q", held.Reason, model.HeldFull)
		}
		h.free = 3 * model.GiB
		h.look()
		h.wantHeld("with enough space")
	}
}

// TestNewDaemon: a daemon that starts below the floor finds what an earlier one has halted.
func TestNewDaemon(t *testing.T) {
	h := newHost(t, "2G", "writer", "other")
	h.free = model.GiB
	h.look()
	h.write("writer", 2*model.MiB)
	h.look()
	h.restart(h.guard.Reserve)
	h.look()
	h.wantHeld("after a restart", "writer")
	delete(h.vms, "writer")
	delete(h.halts, "writer")
	h.look()
	if h.guard.Held("writer") != nil {
		t.Error("a VM that was stopped is still held")
	}
}

// TestBusy: a machine that is halted by an operation is not held.
func TestBusy(t *testing.T) {
	h := newHost(t, "auto", "forked")
	h.halts["forked"], h.busy = vmm.Halted, true
	h.look()
	if h.guard.Held("forked") != nil {
		t.Error("a VM counts as held while an operation is under way on it")
	}
}

// TestOperationIsNotAwaited: a VM that writes is held although an operation on it waits for its
// guest. It continues after the operation.
func TestOperationIsNotAwaited(t *testing.T) {
	h := newHost(t, "auto", "writer", "stuck")
	h.look()
	h.free = model.GiB
	h.look()
	h.write("writer", 2*model.MiB)
	h.busy = true
	h.halts["stuck"] = vmm.HaltedFull
	h.look()
	h.wantHeld("during the operations", "stuck", "writer")
	h.free = 3 * model.GiB
	var log bytes.Buffer
	h.guard.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	h.look()
	h.wantHeld("with space during the operations", "stuck", "writer")
	if log.Len() > 0 {
		t.Errorf("a look at a busy VM warns:\n%s", &log)
	}
	h.busy = false
	h.look()
	h.wantHeld("after the operations")
}

// TestOtherStates: a VM that comes up or ends is held when it has written more than it has memory.
// An operation may have halted it otherwise.
func TestOtherStates(t *testing.T) {
	for _, state := range []model.State{model.Starting, model.Pausing, model.Stopping, model.Paused} {
		h := newHost(t, "auto", "writer")
		h.look()
		h.setState("writer", state)
		h.free = model.GiB
		h.write("writer", 7*model.MiB)
		h.look()
		h.wantHeld("with what was in its memory, " + string(state))
		h.write("writer", 2*model.MiB)
		h.look()
		h.look()
		h.wantHeld("with more, "+string(state), "writer")
	}
}

// TestStop: a stop continues a VM that is held. It is held again if it writes too much, until there
// is space.
func TestStop(t *testing.T) {
	h := newHost(t, "auto", "writer")
	h.look()
	h.free = model.GiB
	h.write("writer", 2*model.MiB)
	h.look()
	h.look()
	h.wantHeld("before the stop", "writer")
	h.setState("writer", model.Stopping)
	h.busy = true
	delete(h.halts, "writer")
	h.write("writer", 4*model.MiB)
	h.look()
	h.wantHeld("during its power-off")
	h.write("writer", 4*model.MiB)
	h.look()
	h.look()
	h.wantHeld("with too much", "writer")
	h.free = 3 * model.GiB
	h.look()
	delete(h.halts, "writer") // by the stop
	h.wantHeld("with enough space")
	if len(h.frozen) > 0 {
		t.Errorf("the VMMs of %q were stopped", h.frozen)
	}
}

// TestHungVMM: a VMM that does not answer does not keep the others from being held.
func TestHungVMM(t *testing.T) {
	h := newHost(t, "auto", "hung", "writer")
	h.hung = "hung"
	ctx, cancel := context.WithCancel(t.Context())
	h.watch.look(ctx)
	h.watch.group.Wait()
	h.free = model.GiB
	h.write("hung", 2*model.MiB)
	h.watch.look(ctx)
	h.write("writer", 2*model.MiB)
	h.watch.look(ctx)
	testkit.WaitFor(t, 10*time.Second, "the other VM to be held", func() bool { return h.guard.Held("writer") != nil })
	if h.guard.Held("hung") != nil {
		t.Error("a VM counts as held although its VMM does not answer")
	}
	cancel()
	h.watch.group.Wait()
}

// TestMuteVMM: a VMM that does not answer the hold and writes meanwhile is stopped. One that does
// not write is not, nor one that answers.
func TestMuteVMM(t *testing.T) {
	h := newHost(t, "auto", "mute", "writer")
	h.mute = "mute"
	h.look()
	h.free = model.GiB
	h.look()
	h.write("mute", 2*model.MiB)
	h.write("writer", 2*model.MiB)
	h.look()
	h.wantHeld("while the mute VMM does not write", "writer")
	h.meanwhile = 2 * model.MiB
	h.look()
	if !slices.Equal(h.frozen, []string{"mute"}) {
		t.Errorf("the VMMs of %q were stopped", h.frozen)
	}
	h.wantHeld("below the floor", "mute", "writer")
	h.free = 3 * model.GiB
	h.look()
	h.wantHeld("with enough space")
}

// TestGivingWayHangs: VMs that write are held although a machine on standby is long to end.
func TestGivingWayHangs(t *testing.T) {
	h := newHost(t, "auto", "writer")
	asked, ended := make(chan struct{}), make(chan struct{})
	h.guard.GiveWay = func(context.Context) {
		close(asked)
		<-ended
	}
	h.look()
	h.free = model.GiB
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		h.watch.look(t.Context())
		h.write("writer", 2*model.MiB)
		h.watch.look(t.Context())
	}()
	testkit.WaitFor(t, 10*time.Second, "the VM to be held", func() bool { return h.guard.Held("writer") != nil })
	<-asked
	close(ended)
	<-looked
	h.watch.group.Wait()
}

func TestInterval(t *testing.T) {
	h := newHost(t, "2G")
	for free, want := range map[model.Bytes]time.Duration{
		total: farLook, 7 * model.GiB: 5 * time.Second, 3 * model.GiB: time.Second, 2 * model.GiB: nearLook, 0: nearLook,
	} {
		h.free = free
		if got := h.look(); got < want-time.Second/10 || got > want+time.Second/10 {
			t.Errorf("with %v free, the next look is after %v, want %v", free, got, want)
		}
	}
}

func TestRunEnds(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	h := newHost(t, "auto", "a")
	looks := make(chan time.Time)
	h.guard.After = func(time.Duration) <-chan time.Time { return looks }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); h.guard.Run(ctx, h) }()
	looks <- h.now
	looks <- h.now
	cancel()
	<-done
}
