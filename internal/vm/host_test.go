package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/step"
	"banger/internal/template"
	"banger/internal/testkit"
	"banger/internal/vm/room"
	"banger/internal/vmm"
	"banger/internal/vmm/fake"
)

// The manager is tested with a real store, real disks and real directories. Only the machine, from
// the fake driver, and its agent are stand-ins. So every step can fail, hang or be interrupted.
// End-to-end tests do the same with real machines where that is possible.

// host is what outlives a daemon: the running machines, and what each hook must do.
type host struct {
	t         *testing.T
	layout    paths.Layout
	mu        sync.Mutex
	computer  *fake.Host
	file      string           // stands for the image, the kernel and the initramfs
	fail      map[string]error // by hook: "do agent", "undo prepare/cap", ...
	block     map[string]chan struct{}
	killAt    *stopAt // at which the daemon is killed; nil for none
	unplugged bool    // the next crash ends the machines, too
	calls     []string
	guest     proto.Assume    // the last identity that a guest got
	records   map[string]bool // ids of VMs with a record; other machines belong to templates
	gone      map[string]bool // images and kernels that were deleted
	realIDs   bool            // images and kernels have ids as in a home

	answersButton bool            // guests react to the power button
	stubborn      string          // the program in guests that does not end before it is killed
	graces        []time.Duration // that its programs got
	homes         bool            // VMs can have work disks
	version       string          // of the driver
	oneCPU        string          // why the driver recommends one vCPU for guests with an init
	accel         string          // of the driver; "" for one of its own
	templates     template.Config // of the daemons; off unless a test turns them on
	keeps         bool            // machines that boot are kept as templates

	more    func(*session) []machine.Capability // further capabilities; may be nil
	drivers func(driver) *vmm.Registry          // of the daemons; nil: the fake driver alone
	counts  bool                                // what the daemons count is noted: see meter
	room    room.Room                           // of the daemons; may be nil

	recoverTimeout time.Duration // of the daemons
	grace          time.Duration // of the daemons: StopTimeout
	writes         proto.Writes  // what boots wrote
	status         int           // of commands in guests
	agents         atomic.Int64  // clients of agents that are not closed
}

func newHost(t *testing.T) *host {
	testkit.RequireTool(t, "mkfs.ext4")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	layout := paths.At(t.TempDir())
	t.Cleanup(func() { os.RemoveAll(layout.Runtime) }) // it is elsewhere if the test's name is long
	return &host{
		t: t, layout: layout, computer: fake.NewHost(), file: file, fail: map[string]error{}, block: map[string]chan struct{}{},
		records: map[string]bool{}, gone: map[string]bool{}, version: "1.0", templates: template.Config{Off: true},
		recoverTimeout: time.Minute,
	}
}

// hook records a call and does what the test has set for it.
func (h *host) hook(ctx context.Context, name string) error {
	h.mu.Lock()
	h.calls = append(h.calls, name)
	err, gate := h.fail[name], h.block[name]
	if gate == nil {
		gate = h.killAt.pass(name)
	}
	h.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return err
}

func (h *host) failing(name string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		delete(h.fail, name)
		return
	}
	h.fail[name] = err
}

// hanging makes the hook wait until release is called.
func (h *host) hanging(name string) (release func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	gate := make(chan struct{})
	h.block[name] = gate
	return sync.OnceFunc(func() {
		h.mu.Lock()
		delete(h.block, name)
		h.mu.Unlock()
		close(gate)
	})
}

// stall is a hook that is called too often to be recorded. It can only hang.
func (h *host) stall(name string) {
	h.mu.Lock()
	gate := h.block[name]
	h.mu.Unlock()
	if gate != nil {
		<-gate
	}
}

// failingOnce runs an operation whose next call of a hook fails with an error; nil lets it succeed.
// While the operation waits in the hook, meanwhile is called, unless it is nil. Later calls of the
// hook succeed.
func failingOnce[T any](h *host, hook string, fail error, operate func() (T, error), meanwhile func()) (T, error) {
	h.t.Helper()
	calls := h.called(hook)
	release := h.hanging(hook)
	defer release()
	h.failing(hook, fail)
	var result T
	var err error
	over := make(chan struct{})
	go func() {
		defer close(over)
		result, err = operate()
	}()
	waitFor(h.t, func() bool { return h.called(hook) > calls })
	if meanwhile != nil {
		meanwhile()
	}
	h.failing(hook, nil)
	release()
	<-over
	return result, err
}

// stopAt is a hook that waits.
type stopAt struct {
	left    int // how many hooks come before it
	name    string
	reached chan struct{}
	gate    chan struct{}
}

// pass returns the gate to wait for, or nil. The caller holds the host's mutex.
func (s *stopAt) pass(name string) chan struct{} {
	if s == nil || s.left == 0 {
		return nil
	}
	if s.left--; s.left > 0 {
		return nil
	}
	s.name = name
	close(s.reached)
	return s.gate
}

// reporter makes a hook of each step that an operation reports.
func (h *host) reporter() step.Reporter {
	return func(e step.Event) {
		_ = h.hook(context.Background(), fmt.Sprintf("report %s %s %s", e.Phase, e.Step, e.Detail))
	}
}

func (h *host) called(name string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, c := range h.calls {
		if c == name {
			n++
		}
	}
	return n
}

func (h *host) running() int { return len(h.computer.Running()) }

// end ends a VM's machine as if it had ended by itself.
func (h *host) end(v model.VM, why vmm.ExitReason) {
	h.t.Helper()
	if !h.computer.End(v.ID, vmm.Exit{Reason: why}) {
		h.t.Errorf("no machine of %s runs", v.Spec.Name)
	}
}

// idOf returns the id of an image or a kernel that is made by its name.
func (h *host) idOf(name string) string {
	if h.realIDs {
		return fmt.Sprintf("%064x", name)[:64]
	}
	return "id-of-" + name
}

// setGone makes an image or a kernel disappear or return.
func (h *host) setGone(id string, gone bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gone[id] = gone
}

func (h *host) isGone(id string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone[id] {
		return fault.New(fault.NotFound, "no %s", id)
	}
	return nil
}

// files lists the files in the state and runtime directories. It omits the database, and logs,
// which stay after a failed start.
func (h *host) files() []string {
	var found []string
	for _, root := range []string{h.layout.VMs(), filepath.Dir(h.layout.VM("x").Run)} {
		filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if err == nil && path != root && filepath.Ext(path) != ".log" {
				found = append(found, path)
			}
			return nil
		})
	}
	return found
}

// filesOf lists the files of some VMs.
func (h *host) filesOf(vms ...model.VM) (files []string) {
	for _, path := range h.files() {
		for _, v := range vms {
			if !slices.Equal(h.pathsWithout([]string{path}, v), []string{path}) {
				files = append(files, path)
			}
		}
	}
	return files
}

// pathsWithout returns paths except those of a VM.
func (h *host) pathsWithout(paths []string, v model.VM) []string {
	files := h.layout.VM(v.ID)
	return slices.DeleteFunc(slices.Clone(paths), func(path string) bool {
		return strings.HasPrefix(path, files.Dir) || strings.HasPrefix(path, files.Run)
	})
}

// stored lists snapshots and templates, finished or not.
func (h *host) stored() []string {
	h.t.Helper()
	var found []string
	for _, dir := range []string{h.layout.Snapshots(), h.layout.Templates()} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			h.t.Fatal(err)
		}
		for _, entry := range entries {
			found = append(found, filepath.Join(dir, entry.Name()))
		}
	}
	return found
}

// openFiles lists the files of the host that this process has open, except the database and what
// the machines have open.
func (h *host) openFiles() (open []string) {
	h.t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		h.t.Fatal(err)
	}
	machines := h.computer.Descriptors()
	for _, fd := range fds {
		if n, err := strconv.Atoi(fd.Name()); err == nil && slices.Contains(machines, n) {
			continue
		}
		name, err := os.Readlink("/proc/self/fd/" + fd.Name())
		ours := strings.HasPrefix(name, h.layout.State) || strings.HasPrefix(name, h.layout.Cache)
		if err == nil && ours && !strings.HasPrefix(name, h.layout.Database()) {
			open = append(open, name)
		}
	}
	return open
}

// waitClosed waits until no file of the host is open. Starts sync disks and inspect templates in
// the background.
func (h *host) waitClosed(t *testing.T) {
	t.Helper()
	waitFor(t, func() bool { return len(h.openFiles()) == 0 })
}

// held is the file that a capability makes for a VM.
func (h *host) held(v model.VM, capability string) string { return h.heldBy(v.ID, capability) }

func (h *host) heldBy(id, capability string) string {
	return filepath.Join(h.layout.VM(id).Dir, "held-by-"+capability)
}

// smallFilesystem mounts a small file system. fill uses up its room except for some bytes. Callers
// cannot be parallel: another test's child process may keep a removed file open until its exec.
func (h *host) smallFilesystem(dir string, size model.Bytes) (fill func(leave model.Bytes), free func()) {
	h.t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		h.t.Fatal(err)
	}
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprint("mode=700,size=", int64(size)))
	testkit.Require(h.t, "root", err == nil, fmt.Sprintf("mounting a tmpfs: %v", err))
	h.t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	filler := filepath.Join(dir, "filler")
	room := func() model.Bytes {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			h.t.Error(err)
		}
		return model.Bytes(st.Bavail) * model.Bytes(st.Bsize)
	}
	fill = func(leave model.Bytes) {
		h.t.Helper()
		f, err := os.Create(filler)
		if err == nil {
			err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, int64(room()-leave)), f.Close())
		}
		if err != nil {
			h.t.Fatal(err)
		}
	}
	return fill, func() { os.Remove(filler) }
}

// occupy makes a guest write to its system disk, which uses up room on the host.
func (h *host) occupy(v model.VM, size model.Bytes) {
	h.t.Helper()
	f, err := os.OpenFile(h.layout.VM(v.ID).SystemDisk(), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(bytes.Repeat([]byte("litter\n"), int(size)/7), workPlace+(1<<20))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		h.t.Error(err)
	}
}

// fullDisk makes the writes behind some hooks fail, until free is called.
func (h *host) fullDisk(hooks ...string) (free func()) {
	for _, hook := range hooks {
		h.failing(hook, errBoom)
	}
	return func() {
		for _, hook := range hooks {
			h.failing(hook, nil)
		}
	}
}

func (h *host) command(name string, args ...string) {
	h.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		h.t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// waitFor waits until another goroutine has done something.
func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatal("the awaited event did not happen within a minute")
		}
		time.Sleep(time.Millisecond)
	}
}

func ptr[T any](v T) *T { return &v }

var errBoom = errors.New("boom")

func second[T any](_ T, err error) error { return err }
