package image

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"banger/internal/fault"
	"banger/internal/step"
)

// bootstrap is one run of mmdebstrap.
type bootstrap struct {
	tool, suite string
	sources     string // for apt, in the deb822 format
	report      step.Reporter
}

// killDelay is how long mmdebstrap may clean up after the request to end.
const killDelay = 10 * time.Second

// The modes of mmdebstrap that banger uses.
const (
	modeAuto    = "auto"    // a user namespace or fakechroot
	modeUnshare = "unshare" // as root, with namespaces for mounts and processes
	modeRoot    = "root"    // as root, with mounts in the host's namespace
)

// run starts mmdebstrap and lets consume read its archive. It returns when both have ended; the end
// of one ends the other. It always removes the directory temp.
func (d bootstrap) run(ctx context.Context, temp string, consume func(context.Context, io.ReadCloser) error) (err error) {
	end := d.report.Track("debian", "installing "+d.suite)
	defer func() { end(err) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	mode := pickMode(os.Geteuid())
	cmd := exec.CommandContext(ctx, d.tool, d.args(ctx, mode)...)
	cmd.Stdin = strings.NewReader(d.sources)
	cmd.Env = buildEnv(os.Environ(), mode, temp)
	d.contain(cmd, mode)
	archive, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	log := &stageLog{report: d.report}
	cmd.Stderr = log
	runtime.LockOSThread() // Pdeathsig is about the parent's thread
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting mmdebstrap: %w", err)
	}
	cerr := consume(ctx, archive)
	if cerr != nil {
		cancel()
	}
	werr := cmd.Wait()
	if werr != nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what outlived its leader
	}
	return d.outcome(ctx, cerr, werr, log)
}

// contain makes mmdebstrap and its children end on request, and when this process dies. As root it
// is process 1 of a namespace, so the kernel ends its children and mounts. A plain user has no such
// namespace, so mmdebstrap is asked to end and gets time to clean up.
func (d bootstrap) contain(cmd *exec.Cmd, mode string) {
	if mode == modeUnshare {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWPID}
		cmd.WaitDelay = killDelay
		return
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = killDelay
}

// outcome returns the cause of two errors. mmdebstrap causes an archive that is cut off.
func (d bootstrap) outcome(ctx context.Context, cerr, werr error, log *stageLog) error {
	switch {
	case cerr != nil && fault.KindOf(cerr) != fault.Invalid:
		if cause := context.Cause(ctx); cause != nil && cause != context.Canceled {
			return cause
		}
		return cerr
	case werr != nil:
		return fault.New(fault.Unavailable, "mmdebstrap: %w: %s",
			werr, log.tail()).WithHint("%s", hintFor(os.Geteuid(), log.tail()))
	}
	return cerr
}

// hintFor reads mmdebstrap's messages, because its exit status does not distinguish failures.
func hintFor(uid int, said string) string {
	switch {
	case strings.Contains(said, "No space left on device"):
		return "Free some space in BANGER_HOME (`banger image prune` may help), or move BANGER_HOME to a larger file system."
	case uid == 0:
		return "Try apt update on this machine: the image comes from the same archive."
	}
	return "Try apt update on this machine: the image comes from the same archive. " +
		"Without root, mmdebstrap needs uidmap and a range in /etc/subuid, or fakechroot and fakeroot: apt install uidmap"
}

// pickMode prefers, as root, a mode with namespaces, so that a killed build leaves no mounts or
// processes.
func pickMode(uid int) string {
	if uid != 0 {
		return modeAuto
	}
	probe := exec.Command("true")
	probe.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	if probe.Run() != nil {
		return modeRoot
	}
	return modeUnshare
}

// buildEnv chooses mmdebstrap's temporary directory. In a mode without mounts on the host that is
// temp, if the users of a user namespace can enter it. They cannot enter a home directory or a
// private TMPDIR; then it is the usual directory.
func buildEnv(env []string, mode, temp string) []string {
	switch {
	case mode == modeUnshare:
		env = append(env, "TMPDIR="+temp)
	case mode == modeAuto && !enterable(tempDirOf(env)):
		env = append(env, "TMPDIR="+defaultTemp)
	}
	return append(env, "LC_ALL=C.UTF-8")
}

const defaultTemp = "/tmp"

// tempDirOf returns the temporary directory of a program with that environment.
func tempDirOf(env []string) string {
	for _, kv := range slices.Backward(env) {
		if dir, ok := strings.CutPrefix(kv, "TMPDIR="); ok && dir != "" {
			return dir
		}
	}
	return defaultTemp
}

// enterable reports whether every user may enter a directory and all its parents.
func enterable(dir string) bool {
	dir, err := filepath.EvalSymlinks(dir) // its real parents count
	for ; err == nil; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
	return false
}

func (d bootstrap) args(ctx context.Context, mode string) []string {
	args := []string{
		"--variant=minbase", "--mode=" + mode, "--format=tar", "--include=" + strings.Join(debianPackages, ","),
		"--customize-hook=" + debianHook,
		"--dpkgopt=force-unsafe-io", // a failed build is removed as a whole
	}
	for _, o := range hostAptOptions(ctx) {
		args = append(args, "--aptopt="+o)
	}
	return append(args, d.suite, "-", "-") // archive to stdout, sources from stdin
}

// aptOptionPrefixes are the host's settings for reaching its archives. The build uses them; the
// image does not keep them.
var aptOptionPrefixes = []string{
	"Acquire::http::", "Acquire::https::", "Acquire::Retries ", "Acquire::ForceIPv", "Acquire::Check-Valid-Until ", "Acquire::Max-FutureTime ",
}

// hostAptOptions reads the host's apt configuration, which mmdebstrap does not read.
func hostAptOptions(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return nil
	}
	return pickAptOptions(string(out))
}

// pickAptOptions selects lines such as `Acquire::http::Proxy "http://proxy:3128";` from apt-config
// dump.
func pickAptOptions(dump string) []string {
	var options []string
	for line := range strings.Lines(dump) {
		line = strings.TrimSuffix(strings.TrimSpace(line), ";")
		for _, prefix := range aptOptionPrefixes {
			if strings.HasPrefix(line, prefix) && !strings.HasSuffix(line, ` ""`) {
				options = append(options, line)
			}
		}
	}
	return options
}

// stages are mmdebstrap's messages about its stages, in order.
var stages = []string{
	"running apt-get update", "downloading packages", "extracting archives", "installing essential packages",
	"installing remaining packages", "cleaning package lists", "creating tarball",
}

// stageLog turns mmdebstrap's messages into progress, and keeps the last ones for an error.
type stageLog struct {
	report step.Reporter
	rest   string
	last   []string
}

const (
	logLines   = 12
	logLineMax = 400 // bytes
)

// Write takes parts of standard error, of any size.
func (l *stageLog) Write(p []byte) (int, error) {
	text := l.rest + string(p)
	for {
		line, rest, ok := strings.Cut(text, "\n")
		if !ok {
			break
		}
		l.line(strings.TrimSpace(line))
		text = rest
	}
	if len(text) > bufio.MaxScanTokenSize {
		text = ""
	}
	l.rest = text
	return len(p), nil
}

func (l *stageLog) line(line string) {
	if line == "" {
		return
	}
	l.last = append(l.last, line[:min(len(line), logLineMax)])
	l.last = l.last[max(0, len(l.last)-logLines):]
	message, ok := strings.CutPrefix(line, "I: ")
	if !ok {
		return
	}
	for i, stage := range stages {
		if strings.HasPrefix(message, stage) {
			l.report.Report(step.Event{
				Step: "debian", Phase: step.Progress, Detail: strings.TrimRight(message, "."),
				Done: int64(i + 1), Total: int64(len(stages)), Unit: "stages",
			})
		}
	}
}

// tail returns the last messages, or the errors among them.
func (l *stageLog) tail() string {
	var errs []string
	for _, line := range l.last {
		if strings.HasPrefix(line, "E: ") {
			errs = append(errs, line)
		}
	}
	if len(errs) == 0 {
		errs = l.last
	}
	return strings.Join(errs, "; ")
}
