package testkit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/internal/pace"
)

// Home is a BANGER_HOME of one test. Its commands start a daemon in it. Its path is short enough
// for sockets. It has a temporary directory of its own, so that files left there are found.
type Home struct {
	Dir string   // BANGER_HOME
	Bin string   // directory of the programs under test
	Env []string // of every command; later entries win
	UID int      // runs the commands
}

// NewHome makes an empty home for the programs in bin. The end of the test stops its daemon, and
// fails the test if a process or a mount is left.
func NewHome(t testing.TB, bin string) *Home {
	t.Helper()
	dir, err := os.MkdirTemp("", "b")
	if err != nil {
		t.Fatal(err)
	}
	h := openHome(dir, bin)
	if err := h.makeTemp(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.close(t) })
	return h
}

func openHome(dir, bin string) *Home {
	h := &Home{Dir: dir, Bin: bin, UID: os.Geteuid()}
	// The caller's banger settings must not reach a test, and test settings not the programs.
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "BANGER_") && !strings.HasPrefix(entry, "XDG_") {
			h.Env = append(h.Env, entry)
		}
	}
	// Making templates in the background slows other tests. Tests of templates turn it on.
	h.Env = append(h.Env, "BANGER_TEMPLATES=false", "BANGER_HOME="+dir, "TMPDIR="+filepath.Join(dir, "tmp"),
		"PATH="+bin+":"+os.Getenv("PATH"), "NO_COLOR=1")
	return h
}

// makeTemp makes the temporary directory. It is open to other users, because mmdebstrap without
// root works in it under another id.
func (h *Home) makeTemp() error {
	tmp := h.path("tmp")
	return errors.Join(os.Mkdir(tmp, 0o700), os.Chmod(tmp, 0o777|os.ModeSticky), os.Chmod(h.Dir, 0o711))
}

// path returns the path of a file in the home.
func (h *Home) path(elem ...string) string { return filepath.Join(append([]string{h.Dir}, elem...)...) }

// Setenv adds to the environment of every later command. A running daemon keeps its environment.
func (h *Home) Setenv(name, value string) { h.Env = append(h.Env, name+"="+value) }

// WriteConfig writes config.toml.
func (h *Home) WriteConfig(t testing.TB, text string) {
	t.Helper()
	if err := os.MkdirAll(h.path("config"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.path("config", "config.toml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Result is the result of a command.
type Result struct {
	Args   []string
	Stdout string
	Stderr string
	Code   int // exit status; 128+n after signal n
}

// runTimeout bounds one command on an ordinary host. Making an image in emulation takes far less.
const runTimeout = 5 * time.Minute

// within is a context with a time that follows the host's speed, as the product's deadlines do.
func within(nominal time.Duration) (context.Context, context.CancelFunc) {
	return pace.Context(context.Background(), nominal, "end of the wait")
}

// Late reports whether something took longer than most, which follows the host's speed.
func Late(took, most time.Duration) bool {
	return took > most && float64(took) > float64(most)*pace.Slowness()
}

// Banger runs `banger args...` with an empty standard input.
func (h *Home) Banger(t testing.TB, args ...string) Result {
	t.Helper()
	return h.Feed(t, "", args...)
}

// Feed runs `banger args...` with stdin on standard input.
func (h *Home) Feed(t testing.TB, stdin string, args ...string) Result {
	t.Helper()
	return h.RunCmd(t, stdin, filepath.Join(h.Bin, "banger"), args...)
}

// RunCmd runs any program in the home's environment.
func (h *Home) RunCmd(t testing.TB, stdin, program string, args ...string) Result {
	t.Helper()
	ctx, cancel := within(runTimeout)
	defer cancel()
	began := time.Now()
	cmd := h.Command(ctx, program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	r := Result{Args: append([]string{filepath.Base(program)}, args...), Stdout: stdout.String(), Stderr: stderr.String(), Code: exitCode(err)}
	if ctx.Err() != nil {
		t.Fatalf("%s did not end within %v\nstdout: %s\nstderr: %s",
			strings.Join(r.Args, " "), time.Since(began).Round(time.Second), r.Stdout, r.Stderr)
	}
	if r.Code < 0 {
		t.Fatalf("running %s: %v", strings.Join(r.Args, " "), err)
	}
	return r
}

// Command returns a program that will run in the home's environment and directory, as its user.
func (h *Home) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env, cmd.Dir = h.Env, h.Dir
	// A daemon that inherited a pipe must not make the test wait.
	cmd.WaitDelay = 2 * time.Second
	if h.UID != os.Geteuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(h.UID), Gid: uint32(h.UID)}}
	}
	return cmd
}

// exitCode returns a finished command's status as a shell does, or -1 if it did not run.
func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case !errors.As(err, &exit):
		return -1
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return exit.ExitCode()
}

// Chown gives the home to another user, who then runs the commands. It needs root.
func (h *Home) Chown(t testing.TB, uid int) {
	t.Helper()
	if out, err := exec.Command("chown", "-R", "-h", "--", itoa(uid)+":"+itoa(uid), h.Dir).CombinedOutput(); err != nil {
		t.Fatalf("chown: %v: %s", err, out)
	}
	h.UID = uid
	h.Setenv("HOME", h.Dir)
}

// close stops the daemon, fails the test for each leftover, and removes the home.
func (h *Home) close(t testing.TB) {
	if t.Failed() {
		h.dumpLogs(t)
	}
	ctx, cancel := within(time.Minute)
	defer cancel()
	banger := filepath.Join(h.Bin, "banger")
	// A test that failed half way may leave its VMs running. That is not a leak of the product.
	if t.Failed() {
		h.deleteAll(ctx)
	}
	if out, err := h.Command(ctx, banger, "daemon", "stop").CombinedOutput(); err != nil && len(processesIn(h.Dir)) > 0 {
		t.Errorf("banger daemon stop: %v: %s", err, out)
	}
	waitFor(10*time.Second, func() bool { return len(processesIn(h.Dir)) == 0 })
	for pid, what := range processesIn(h.Dir) {
		if !t.Failed() {
			t.Errorf("process %d is left over: %s", pid, what)
		}
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	for _, target := range mountsIn(h.Dir) {
		t.Errorf("mount %s is left over", target)
		_ = syscall.Unmount(target, syscall.MNT_DETACH)
	}
	if err := os.RemoveAll(h.Dir); err != nil {
		t.Errorf("removing the home: %v", err)
	}
}

// dumpLogs prints the end of each log in the home, for a failed test.
func (h *Home) dumpLogs(t testing.TB) {
	logs, _ := filepath.Glob(h.path("state", "*.log"))
	more, _ := filepath.Glob(h.path("state", "vms", "*", "*.log"))
	for _, name := range append(logs, more...) {
		data, err := os.ReadFile(name)
		if err != nil || len(data) == 0 {
			continue
		}
		if n := len(data) - 2048; n > 0 {
			data = data[n:]
		}
		t.Logf("--- the end of %s\n%s", strings.TrimPrefix(name, h.Dir+"/"), data)
	}
}

// waitFor polls cond until it holds or the time is over, and returns its last result. The time
// follows the host's speed.
func waitFor(d time.Duration, cond func() bool) bool {
	ctx, cancel := within(d)
	defer cancel()
	for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		if cond() {
			return true
		}
	}
	return cond()
}

// WaitFor is waitFor that fails the test. what describes the condition.
func WaitFor(t testing.TB, d time.Duration, what string, cond func() bool) {
	t.Helper()
	if !waitFor(d, cond) {
		t.Fatalf("not within %v: %s", d, what)
	}
}

// deleteAll deletes every VM of the home, and ignores errors.
func (h *Home) deleteAll(ctx context.Context) {
	banger := filepath.Join(h.Bin, "banger")
	out, err := h.Command(ctx, banger, "vm", "list", "--json").Output()
	var vms []struct{ ID string }
	if err != nil || json.Unmarshal(out, &vms) != nil {
		return
	}
	for _, vm := range vms {
		_ = h.Command(ctx, banger, "vm", "delete", "--force", vm.ID).Run()
	}
}

// Shell runs a line of shell in the home's environment, to prepare a test.
func (h *Home) Shell(line string) error {
	ctx, cancel := within(runTimeout)
	defer cancel()
	if out, err := h.Command(ctx, "sh", "-c", line).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, out)
	}
	return nil
}
