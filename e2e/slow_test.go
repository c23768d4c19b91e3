package e2e

import (
	"context"
	"net"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"banger/internal/model"
	"banger/internal/testkit"
)

// slowCalls are the system calls that wait for a disk.
const slowCalls = "fsync,fdatasync,sync_file_range,pwrite64,pwritev,pwritev2,ftruncate,fallocate,copy_file_range,renameat,renameat2,unlinkat"

// TestSlowDisk runs the daemon and its VMMs on a disk that needs two milliseconds for each change.
// Everything works, and no template is thrown away. BANGER_STRESS_SLOW makes it slower.
func TestSlowDisk(t *testing.T) {
	testkit.RequireTool(t, "strace")
	delay := 2000 // microseconds
	if testkit.Number(t, "BANGER_STRESS_SLOW", 0) != 0 {
		delay *= 25
	}
	h := forking(t, "0")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	daemon := h.Command(ctx, "strace", "-D", "-f", "-q", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace="+slowCalls,
		"-e", "inject="+slowCalls+":delay_enter="+strconv.Itoa(delay), filepath.Join(h.Bin, "bangerd"))
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	defer daemon.Wait()
	listens := func() bool {
		conn, err := net.Dial("unix", filepath.Join(h.Dir, "run", "bangerd.sock"))
		if err == nil {
			conn.Close()
		}
		return err == nil
	}
	testkit.WaitFor(t, time.Minute, "the daemon listens", listens)
	began := time.Now()
	ok(t, h, "run", "--rm", "--memory", "128M", "--", "true")
	t.Logf("a run takes %v", time.Since(began).Round(time.Millisecond))
	lives(t, h)
	ok(t, h, "daemon", "stop")
}

// saver is a service that takes some time to save its data when it gets SIGTERM.
const saver = `trap "sleep 1; echo kept >/root/saved; exit" TERM; while :; do sleep 0.1; done`

// lives takes a VM through what waits for the disk and for the guest. All of it works, and the
// templates stay.
func lives(t *testing.T, h *testkit.Home) {
	t.Helper()
	testkit.WaitFor(t, 5*time.Minute, "a template is there", func() bool { return len(decode[[]model.Template](t, h, "template", "list")) > 0 })
	before := decode[[]model.Template](t, h, "template", "list")
	for _, line := range [][]string{
		{"run", "-d", "--name", "box", "--memory", "128M"},
		{"exec", "box", "--", "sh", "-c", "echo kept >/root/kept; nohup sh -c '" + saver + "' >/dev/null 2>&1 &"},
		{"snapshot", "create", "box", "--name", "s"},
		{"fork", "--name", "child", "box"},
		{"exec", "child", "--", "grep", "-q", "kept", "/root/kept"},
		{"suspend", "box"},
		{"resume", "box"},
		{"exec", "box", "--", "grep", "-q", "kept", "/root/kept"},
		{"stop", "box"},
		{"start", "box"},
		{"exec", "box", "--", "sh", "-c", "grep kept /root/kept && grep kept /root/saved"},
		{"rm", "--force", "box", "child"},
		{"snapshot", "delete", "s"},
	} {
		began := time.Now()
		ok(t, h, line...)
		t.Logf("%v: %v", line, time.Since(began).Round(time.Millisecond))
	}
	after := map[string]bool{}
	for _, tpl := range decode[[]model.Template](t, h, "template", "list") {
		after[tpl.Key] = true
	}
	for _, tpl := range before {
		if !after[tpl.Key] {
			t.Errorf("the template %s of %q was thrown away", tpl.Key, tpl.Image)
		}
	}
}

// TestSlowHost gives the daemon and its VMMs a tenth of their time. Everything works, and no
// template is thrown away. It runs as a part of make stress.
func TestSlowHost(t *testing.T) {
	if testkit.Number(t, "BANGER_STRESS_SLOW", 0) == 0 {
		t.Skip("BANGER_STRESS_SLOW is unset: it takes minutes")
	}
	h := forking(t, "0")
	ok(t, h, "run", "--rm", "--memory", "128M", "--", "true")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		halting(h, stop)
	}()
	defer func() { close(stop); <-stopped }()
	lives(t, h)
}

// halting halts the home's daemon and VMMs for nine tenths of the time until stop is closed.
func halting(h *testkit.Home, stop <-chan struct{}) {
	const run, halt = 20 * time.Millisecond, 180 * time.Millisecond
	signal := func(s syscall.Signal) {
		for pid := range h.Processes() {
			_ = syscall.Kill(pid, s)
		}
	}
	for {
		signal(syscall.SIGSTOP)
		time.Sleep(halt)
		signal(syscall.SIGCONT)
		select {
		case <-stop:
			return
		case <-time.After(run):
		}
	}
}
