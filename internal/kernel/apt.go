package kernel

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"banger/internal/fault"
	"banger/internal/regular"
	"banger/internal/step"
)

const (
	// listsMaxAge is how old the host's package lists may be before banger fetches lists of its
	// own.
	listsMaxAge = 7 * 24 * time.Hour

	// aptTimeout bounds one command. Updating all lists on a slow line takes a few minutes.
	aptTimeout = 15 * time.Minute
	maxDeb     = 1 << 30
)

// apt runs the host's apt in directories of its own. The host's sources, keys and preferences
// decide what exists and what is trusted. apt changes nothing on the host and needs no root.
type apt struct {
	dir    string // holds apt's directories
	report step.Reporter
}

// debPackage is a package that apt offers.
type debPackage struct {
	name, file string
	size       int64 // bytes
}

// version returns the package's version from its file name.
func (p debPackage) version() string {
	if parts := strings.Split(p.file, "_"); len(parts) == 3 {
		return strings.ReplaceAll(parts[1], "%3a", ":")
	}
	return ""
}

// config is the apt.conf that apt reads after the host's. It clears the host's hooks, which expect
// the host's own directories, and the lists that a kernel does not need. It rejects unsigned files.
func (a apt) config(ownLists bool) string {
	conf := fmt.Sprintf(`#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear Acquire::IndexTargets::deb::DEP-11;
#clear Acquire::IndexTargets::deb::DEP-11-icons;
#clear Acquire::IndexTargets::deb::CNF;
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Acquire::AllowInsecureRepositories "false";
APT::Get::AllowUnauthenticated "false";
Dir::Cache "%s/cache/";
`, a.dir)
	if ownLists {
		conf += fmt.Sprintf("Dir::State::Lists \"%s/lists/\";\n", a.dir)
	}
	return conf
}

// prepare makes the directories and selects the host's lists or our own.
func (a apt) prepare(ownLists bool) error {
	for _, d := range []string{"cache/archives/partial", "lists/partial", "deb"} {
		if err := os.MkdirAll(filepath.Join(a.dir, d), 0o755); err != nil {
			return fmt.Errorf("preparing apt: %w", err)
		}
	}
	if err := regular.Write(a.confPath(), []byte(a.config(ownLists)), 0o644); err != nil {
		return fmt.Errorf("preparing apt: %w", err)
	}
	return nil
}

func (a apt) confPath() string { return filepath.Join(a.dir, "apt.conf") }

// update fetches the lists into our own directories. It fails only if all sources fail.
func (a apt) update(ctx context.Context) error {
	if err := a.prepare(true); err != nil {
		return err
	}
	_, err := a.run(ctx, aptCall{argv: []string{"apt-get", "-q", "update"}, progress: func(percent float64) {
		a.report.Report(step.Event{Step: "kernel/lists", Phase: step.Progress, Done: int64(percent), Total: 100, Unit: "percent"})
	}})
	return err
}

// hostListsFresh reports whether the host's lists are recent enough.
func (a apt) hostListsFresh(ctx context.Context, now time.Time) bool {
	out, err := a.run(ctx, aptCall{argv: []string{"apt-config", "shell", "LISTS", "Dir::State::Lists/d"}})
	if err != nil {
		return false
	}
	dir, ok := strings.CutPrefix(strings.TrimSpace(string(out)), "LISTS='")
	dir = strings.TrimSuffix(dir, "'")
	packages, err := filepath.Glob(filepath.Join(dir, "*_Packages*"))
	if !ok || err != nil || len(packages) == 0 {
		return false
	}
	// The lists have the times of their servers. The directory's time is that of the last update.
	info, err := os.Stat(dir)
	return err == nil && now.Sub(info.ModTime()) < listsMaxAge
}

// dependsPattern matches the real kernel package among a meta package's dependencies.
var dependsPattern = regexp.MustCompile(`(?m)^\s*Depends: (linux-image-[0-9][a-z0-9.+-]*)$`)

// concrete returns the kernel package on which a meta package depends now.
func (a apt) concrete(ctx context.Context, meta string) (string, error) {
	out, err := a.run(ctx, aptCall{argv: []string{"apt-cache", "depends", meta}})
	if err != nil {
		return "", err
	}
	m := dependsPattern.FindSubmatch(out)
	if m == nil {
		return "", fault.New(fault.NotFound, "package %s names no kernel package", meta)
	}
	return string(m[1]), nil
}

// uriPattern matches a line of apt-get --print-uris: 'URI' file size hash.
var uriPattern = regexp.MustCompile(`(?m)^'[^']*' ([A-Za-z0-9][A-Za-z0-9.+%~_-]*\.deb) ([0-9]+)(?: |$)`)

// offer returns the file that apt would download for a package.
func (a apt) offer(ctx context.Context, name string) (debPackage, error) {
	out, err := a.run(ctx, aptCall{argv: []string{"apt-get", "-q", "--print-uris", "download", name}})
	if err != nil {
		return debPackage{}, err
	}
	m := uriPattern.FindSubmatch(out)
	if m == nil {
		return debPackage{}, fault.New(fault.Unavailable, "apt offers no file for package %s", name)
	}
	size, err := strconv.ParseInt(string(m[2]), 10, 64)
	if err != nil || size > maxDeb {
		return debPackage{}, fault.New(fault.Invalid, "package %s has %s bytes", name, m[2])
	}
	return debPackage{name: name, file: string(m[1]), size: size}, nil
}

// download fetches the package and returns its path. apt checks its hash against the signed lists.
func (a apt) download(ctx context.Context, p debPackage) (path string, err error) {
	_, err = a.run(ctx, aptCall{
		argv: []string{"apt-get", "-q", "download", p.name}, dir: filepath.Join(a.dir, "deb"),
		progress: func(percent float64) {
			a.report.Report(step.Event{Step: "kernel/download", Phase: step.Progress, Done: int64(percent / 100 * float64(p.size)), Total: p.size, Unit: "bytes"})
		}})
	if err != nil {
		return "", err
	}
	path = filepath.Join(a.dir, "deb", p.file)
	if info, err := os.Lstat(path); err != nil || info.Size() != p.size {
		return "", fault.New(fault.Unavailable, "apt-get downloaded %s, but not as %s with %d bytes",
			p.name, p.file, p.size)
	}
	return path, nil
}

// aptCall is one command of apt.
type aptCall struct {
	argv     []string
	dir      string
	progress func(percent float64)
}

// run runs the command and returns its output. An error holds what the command printed.
func (a apt) run(ctx context.Context, c aptCall) ([]byte, error) {
	late := fmt.Errorf("%s did not end within %v", c.argv[0], aptTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, aptTimeout, late)
	defer cancel()
	args := append([]string{"-c", a.confPath()}, c.argv[1:]...)
	if c.progress != nil {
		args = append(args, "-o", "APT::Status-Fd=3")
	}
	cmd := exec.CommandContext(ctx, c.argv[0], args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	cmd.Dir = c.dir
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	wait := func() {}
	if c.progress != nil {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, fmt.Errorf("running %s: %w", c.argv[0], err)
		}
		defer r.Close()
		cmd.ExtraFiles = []*os.File{w}
		done := make(chan struct{})
		go func() { defer close(done); readStatus(r, c.progress) }()
		wait = func() { w.Close(); r.SetReadDeadline(time.Now().Add(cmd.WaitDelay)); <-done }
	}
	err := cmd.Run()
	wait()
	if err == nil {
		return stdout.Bytes(), nil
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("running %s: %w", c.argv[0], context.Cause(ctx))
	}
	if complaint := complaints(stderr.String()); complaint != "" {
		return nil, fault.New(fault.Unavailable, "%s: %s", c.argv[0], complaint)
	}
	return nil, fault.New(fault.Unavailable, "running %s: %w", c.argv[0], err)
}

// readStatus reads apt's progress: "dlstatus:<items>:<percent>:<text>" (README.progress-reporting
// of apt).
func readStatus(r io.Reader, progress func(float64)) {
	lines := bufio.NewScanner(r)
	last := -1.0
	for lines.Scan() {
		f := strings.SplitN(lines.Text(), ":", 4)
		if len(f) < 4 || f[0] != "dlstatus" {
			continue
		}
		if percent, err := strconv.ParseFloat(f[2], 64); err == nil && percent > last && percent <= 100 {
			progress(percent)
			last = percent
		}
	}
	// Read the rest after a line that is too long, so that apt never blocks.
	io.Copy(io.Discard, r)
}

// complaints returns apt's errors from its output, at most 5 lines.
func complaints(stderr string) string {
	var found []string
	for line := range strings.Lines(stderr) {
		if rest, ok := strings.CutPrefix(line, "E: "); ok && len(found) < 5 {
			found = append(found, strings.TrimSpace(rest))
		}
	}
	return strings.Join(found, "; ")
}
