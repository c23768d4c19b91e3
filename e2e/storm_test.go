package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/pace"
	"banger/internal/testkit"
)

// storm sends random operations to a few VMs from several clients at once.
type storm struct {
	h       *testkit.Home
	names   []string
	clients int
	total   int
	seed    uint64
	dir     string // for the output of operations

	kills  atomic.Int32 // of the daemon
	mu     sync.Mutex
	counts map[string]int // by operation and exit status
	bad    []string       // answers that no situation explains
}

// storming are the operations. %s is the VM's name.
var storming = []string{
	"run -d --name %s --memory 128M", "run -d --name %s --memory 128M", "vm create --name %s --memory 128M", "start %s", "stop --timeout 2s %s",
	"vm kill %s", "vm restart --timeout 2s %s", "pause %s", "resume %s", "suspend %s", "exec %s -- true", "exec %s -- sh -c 'echo x >>/root/log'",
	"fork --name %s-fork %s", "rm -f %s", "ps", "vm show %s", "logs %s", "vm stats %s",
}

// run sends all operations, more if the daemon was hardly killed, and returns when each has ended.
func (s *storm) run(t *testing.T) {
	todo := make(chan string)
	var wg sync.WaitGroup
	for range s.clients {
		wg.Go(func() {
			for line := range todo {
				s.send(t, line)
			}
		})
	}
	random := rand.New(rand.NewPCG(s.seed, s.seed))
	for i := 0; i < s.total || s.kills.Load() < 2 && i < 10*s.total; i++ {
		name := s.names[random.IntN(len(s.names))]
		todo <- strings.ReplaceAll(storming[random.IntN(len(storming))], "%s", name)
	}
	close(todo)
	wg.Wait()
}

// send runs one operation. It may fail, because the VM can be in any state and the daemon is killed
// all the time. It may not hang, crash, blame banger itself, or fail without a word.
func (s *storm) send(t *testing.T, line string) {
	ctx, cancel := pace.Context(t.Context(), 4*time.Minute, "end of the operation")
	defer cancel()
	cmd := s.h.Command(ctx, "sh", "-c", filepath.Join(s.h.Bin, "banger")+" "+line+" </dev/null")
	// A pipe would be closed before this busy program has read it.
	file, err := os.CreateTemp(s.dir, "")
	if err != nil {
		t.Error(err)
		return
	}
	defer os.Remove(file.Name())
	cmd.Stdout, cmd.Stderr = file, file
	_ = cmd.Run()
	out, err := os.ReadFile(file.Name())
	if err := errors.Join(err, file.Close()); err != nil {
		t.Error(err)
	}
	status := cmd.ProcessState.ExitCode() // -1 if a signal ended it, or it did not run
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[fmt.Sprintf("%s: %d", strings.Fields(strings.TrimPrefix(line, "vm "))[0], status)]++
	ours := status == fault.Invalid.ExitCode() || status == fault.Internal.ExitCode()
	ended := strings.HasPrefix(line, "exec") && status > 128 // a signal ended the guest's command
	silent := status != 0 && len(out) == 0 && !ended
	if ctx.Err() != nil || ours || silent || status < 0 || strings.Contains(string(out), "panic") {
		s.bad = append(s.bad, fmt.Sprintf("banger %s: exit %d: %s", line, status, out))
	}
}

// disturb kills the daemon every so often until stop is closed. Now and then it halts the daemon or
// a VMM for a while instead. It returns how often it did what.
func (s *storm) disturb(every time.Duration, stop <-chan struct{}) map[string]int {
	random := rand.New(rand.NewPCG(s.seed, 1))
	done := map[string]int{}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return done
		case <-tick.C:
		}
		name, signal := "bangerd", syscall.SIGKILL
		switch random.IntN(5) {
		case 0:
			signal = syscall.SIGSTOP
		case 1:
			name, signal = "qemu-system-x86_64", syscall.SIGSTOP
		}
		pids := s.pids(name)
		if len(pids) == 0 {
			continue
		}
		pid := pids[random.IntN(len(pids))]
		if syscall.Kill(pid, signal) != nil {
			continue
		}
		done[name+" "+signal.String()]++
		if signal == syscall.SIGKILL {
			s.kills.Add(1)
		}
		if signal == syscall.SIGSTOP {
			time.Sleep(every / 2)
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	}
}

// pids finds the home's processes of a program.
func (s *storm) pids(program string) (pids []int) {
	for pid := range s.h.Processes() {
		if target, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && filepath.Base(target) == program {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// TestStorm kills and halts daemon and VMMs while clients send random operations. Afterwards
// records, processes and files agree. BANGER_STRESS_VMS, _OPS, _CLIENTS and _SEED make it larger.
func TestStorm(t *testing.T) {
	h := forking(t, "0")
	ok(t, h, "run", "--rm", "--memory", "128M", "--", "true")
	testkit.WaitFor(t, 3*time.Minute, "a template is there", func() bool { return len(decode[[]model.Template](t, h, "template", "list")) > 0 })
	before := h.Snapshot(t)
	began := time.Now()
	ok(t, h, "run", "--rm", "--memory", "128M", "--", "true")
	every := max(4*time.Second, 3*time.Since(began)) // something succeeds between two kills
	s := &storm{
		h: h, clients: testkit.Number(t, "BANGER_STRESS_CLIENTS", 4), total: testkit.Number(t, "BANGER_STRESS_OPS", 60),
		seed: uint64(testkit.Number(t, "BANGER_STRESS_SEED", int(time.Now().Unix()))), dir: t.TempDir(), counts: map[string]int{},
	}
	for i := range testkit.Number(t, "BANGER_STRESS_VMS", 3) {
		s.names = append(s.names, "box-"+strconv.Itoa(i))
	}
	t.Logf("%d VMs, %d clients, %d operations, BANGER_STRESS_SEED=%d", len(s.names), s.clients, s.total, s.seed)
	stop, disturbed := make(chan struct{}), make(chan map[string]int)
	go func() { disturbed <- s.disturb(every, stop) }()
	s.run(t)
	close(stop)
	did := <-disturbed
	t.Logf("disturbances: %v; answers: %v", did, s.counts)
	if s.kills.Load() == 0 || s.counts["run: 0"]+s.counts["start: 0"] == 0 {
		t.Error("the daemon was never killed, or no VM came up: the storm shows nothing")
	}
	for _, answer := range s.bad {
		t.Error(answer)
	}
	s.audit(t)
	for _, v := range vms(t, h) {
		ok(t, h, "rm", "--force", v.ID)
	}
	h.CheckNoLeaks(t, before)
}

// audit compares records, VMMs and files when everything has come to rest.
func (s *storm) audit(t *testing.T) {
	t.Helper()
	var list []model.VM
	testkit.WaitFor(t, 2*time.Minute, "every VM is settled", func() bool {
		r := s.h.Banger(t, "vm", "list")
		list = vms(t, s.h)
		return r.Code == 0 && !slices.ContainsFunc(list, func(v model.VM) bool { return !settled(v) })
	})
	var running []string
	recorded := []int{} // the VMMs
	for _, v := range list {
		if v.Runtime != nil {
			recorded = append(recorded, v.Runtime.PID)
		}
		switch v.State {
		case model.Running:
			if r := s.h.Banger(t, "exec", v.ID, "--", "true"); r.Code != 0 {
				t.Errorf("%s runs, but a command in it exits with %d: %s", v.Spec.Name, r.Code, r.Stderr)
			}
			running = append(running, v.ID)
		case model.Paused:
			running = append(running, v.ID)
		case model.Broken:
			t.Errorf("%s is broken: %+v", v.Spec.Name, v.LastError)
		}
	}
	slices.Sort(running)
	var ids []string
	for _, v := range list {
		ids = append(ids, v.ID)
	}
	// A template may be in the making. Its machine has directories and no record.
	var machines, strangers []string
	var vmms []int
	slices.Sort(recorded)
	agree := func() bool {
		machines, vmms = s.dirs(t, "run", "vms"), s.pids("qemu-system-x86_64")
		strangers = slices.DeleteFunc(s.dirs(t, "state", "vms"), func(id string) bool { return slices.Contains(ids, id) })
		return slices.Equal(machines, running) && len(strangers) == 0 && slices.Equal(vmms, recorded)
	}
	defer func() {
		if t.Failed() {
			t.Logf("run directories of %q; %q have a machine; the directories of %q have no record; VMMs %v, recorded %v",
				machines, running, strangers, vmms, recorded)
		}
	}()
	testkit.WaitFor(t, 3*time.Minute, "directories, VMMs and records agree", agree)
	if lost := s.dirs(t, "state", "lost"); len(lost) > 0 {
		t.Errorf("directories were moved to the lost ones: %q", lost)
	}
}

// dirs lists the machines that have a directory below a path of the home.
func (s *storm) dirs(t *testing.T, path ...string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(append([]string{s.h.Dir}, path...)...))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	names := []string{}
	for _, e := range entries {
		if model.IsID(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names
}
