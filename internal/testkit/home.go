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
)

// Home is a BANGER_HOME of a test's own, with the daemon that the commands run in it start on demand. Its path is short
// enough for sockets, and so is its temporary folder, which catches what would else be lost among everybody's.
type Home struct {
	Dir string   // BANGER_HOME
	Bin string   // the folder of the programs under test
	Env []string // of every command; later entries win
	UID int      // who runs the commands
}

// NewHome makes an empty home for the programs in bin. At the end of the test its daemon is stopped, and whatever process or mount is
// left in it fails the test.
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
	// The caller's own banger settings must not reach a test, nor its test settings the programs.
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "BANGER_") && !strings.HasPrefix(entry, "XDG_") {
			h.Env = append(h.Env, entry)
		}
	}
	// Templates are made in the background, which would take the CPU from other tests: those about them turn them on.
	h.Env = append(h.Env, "BANGER_TEMPLATES=false", "BANGER_HOME="+dir, "TMPDIR="+filepath.Join(dir, "tmp"), "PATH="+bin+":"+os.Getenv("PATH"), "NO_COLOR=1")
	return h
}

// makeTemp makes the temporary folder. Without root, mmdebstrap works there under another of the user's ids, so others must get in.
func (h *Home) makeTemp() error {
	tmp := h.path("tmp")
	return errors.Join(os.Mkdir(tmp, 0o700), os.Chmod(tmp, 0o777|os.ModeSticky), os.Chmod(h.Dir, 0o711))
}

// path names a file in the home.
func (h *Home) path(elem ...string) string { return filepath.Join(append([]string{h.Dir}, elem...)...) }

// Setenv adds to the environment of every later command. A running daemon keeps what it was started with.
func (h *Home) Setenv(name, value string) { h.Env = append(h.Env, name+"="+value) }

// WriteConfig puts text into config.toml.
func (h *Home) WriteConfig(t testing.TB, text string) {
	t.Helper()
	if err := os.MkdirAll(h.path("config"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.path("config", "config.toml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Result is what a command did.
type Result struct {
	Args   []string
	Stdout string
	Stderr string
	Code   int // exit status; 128+n after death by signal n
}

// runTimeout bounds one command of a test, far above what the slowest takes (making an image in emulation, on a busy machine).
const runTimeout = 5 * time.Minute

// Banger runs `banger args...` with nothing on standard input.
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
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	defer cancel()
	cmd := h.Command(ctx, program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	r := Result{Args: append([]string{filepath.Base(program)}, args...), Stdout: stdout.String(), Stderr: stderr.String(), Code: exitCode(err)}
	if ctx.Err() != nil {
		t.Fatalf("%s did not end in %v\nstdout: %s\nstderr: %s", strings.Join(r.Args, " "), runTimeout, r.Stdout, r.Stderr)
	}
	if r.Code < 0 {
		t.Fatalf("running %s: %v", strings.Join(r.Args, " "), err)
	}
	return r
}

// Command is a program to be run in the home's environment, as its user, with the home as working folder.
func (h *Home) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env, cmd.Dir = h.Env, h.Dir
	cmd.WaitDelay = 2 * time.Second // a daemon that inherited a pipe must not hang the test
	if h.UID != os.Geteuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(h.UID), Gid: uint32(h.UID)}}
	}
	return cmd
}

// exitCode is a finished command's status as a shell gives it, or -1 when it did not run.
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

// close stops the daemon, reports and ends what is left, and removes the home.
func (h *Home) close(t testing.TB) {
	if t.Failed() {
		h.dumpLogs(t)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	banger := filepath.Join(h.Bin, "banger")
	// A test that went wrong half way may leave its VMs running; that is not the product's leak.
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

// dumpLogs shows the end of each log in the home, for a failed test.
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

// waitFor looks whether cond holds until it does or the time is over, and returns what it saw last.
func waitFor(d time.Duration, cond func() bool) bool {
	for deadline := time.Now().Add(d); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if cond() {
			return true
		}
	}
	return cond()
}

// WaitFor is waitFor that fails the test: what names the condition.
func WaitFor(t testing.TB, d time.Duration, what string, cond func() bool) {
	t.Helper()
	if !waitFor(d, cond) {
		t.Fatalf("not within %v: %s", d, what)
	}
}

// deleteAll deletes every VM of the home, as far as that works.
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

// Shell runs a line of shell in the home's environment, for a test's own preparations.
func (h *Home) Shell(line string) error {
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	defer cancel()
	if out, err := h.Command(ctx, "sh", "-c", line).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, out)
	}
	return nil
}
