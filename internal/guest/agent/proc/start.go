package proc

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/guest/proto"
)

// Streams holds a command's standard streams. A nil reader is empty; a nil writer discards.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Process is a command that was started.
type Process interface {
	// Wait returns when the command has ended and its output was delivered.
	Wait() proto.Exit
	// Signal sends the named signal to the command's process group. After the command's end it
	// returns os.ErrProcessDone.
	Signal(name string) error
	// Resize changes the size of the command's terminal. Without a terminal it does nothing.
	Resize(proto.Size) error
	// Hangup ends the command: SIGHUP to its process group, and SIGKILL if it still runs after a
	// while.
	Hangup()
}

// Runner starts commands with the settings of the identity. Only Table is required.
type Runner struct {
	Table   *Table
	Env     []string // for every command
	User    string   // of commands that name none
	Workdir string   // of commands that name none
}

// StartError reports a command that could not be started, as a shell does.
type StartError struct {
	Code int // 127: not found; 126: found and not executable
	Err  error
}

func (e *StartError) Error() string { return e.Err.Error() }
func (e *StartError) Unwrap() error { return e.Err }

// Exit statuses of commands that could not be started (POSIX, Shell Command Language, section
// 2.8.2).
const (
	notExecutable = 126
	notFound      = 127
)

// hangupGrace is how long a command may take to end after SIGHUP.
const hangupGrace = 3 * time.Second

// Start begins the command in req. An error is a *StartError, or a fault if the request is wrong. A
// failing write to Stdout or Stderr closes the command's end of it. Stdin may stay blocked in a
// Read after the end.
func (r *Runner) Start(req proto.ExecRequest, s Streams) (Process, error) {
	c, err := r.resolve(req)
	if err != nil {
		return nil, err
	}
	if req.TTY {
		return r.startTTY(c, req.Size, s)
	}
	if !req.Stdin {
		s.Stdin = nil
	}
	return r.startPipes(c, s)
}

// command is a request with user, program and environment resolved.
type command struct {
	path string
	argv []string
	attr syscall.ProcAttr
}

func (r *Runner) resolve(req proto.ExecRequest) (*command, error) {
	spec := req.User
	if spec == "" {
		spec = r.User
	}
	u, err := LookupUser("/", spec)
	if errors.Is(err, ErrNoUser) {
		return nil, fault.New(fault.Invalid, "%w", err)
	}
	if err != nil {
		return nil, err
	}
	env := environment(u, req.TTY, r.Env, req.Env)
	if err := checkStrings(req.Argv, env); err != nil {
		return nil, fault.New(fault.Invalid, "%w", err)
	}
	dir, err := r.workdir(req, env)
	if err != nil {
		return nil, err
	}
	path, argv, err := program(req.Argv, u, env, dir)
	if err != nil {
		return nil, err
	}
	attr := syscall.ProcAttr{Dir: dir, Env: env, Sys: &syscall.SysProcAttr{Setsid: true}}
	if os.Geteuid() == 0 {
		attr.Sys.Credential = &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.Groups}
	}
	return &command{path: path, argv: argv, attr: attr}, nil
}

// workdir returns where the command starts. A requested directory must exist; a home need not.
func (r *Runner) workdir(req proto.ExecRequest, env []string) (string, error) {
	dir := req.Workdir
	if dir == "" {
		dir = r.Workdir
	}
	if dir == "" {
		dir = lookupEnv(env, "HOME")
		if info, err := os.Stat(dir); err != nil || !info.IsDir() || !filepath.IsAbs(dir) {
			return "/", nil
		}
		return dir, nil
	}
	if !filepath.IsAbs(dir) {
		return "", fault.New(fault.Invalid, "working directory %q is not absolute", dir)
	}
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return "", &StartError{Code: notExecutable, Err: fmt.Errorf("working directory %s: %w", dir, plain(err))}
	case !info.IsDir():
		return "", &StartError{Code: notExecutable, Err: fmt.Errorf("working directory %s: %w", dir, unix.ENOTDIR)}
	}
	return dir, nil
}

// program finds the file to execute. Without arguments it is the user's login shell, whose argv[0]
// begins with a hyphen.
func program(argv []string, u User, env []string, dir string) (string, []string, error) {
	if len(argv) > 0 {
		path, err := find(argv[0], lookupEnv(env, "PATH"), dir)
		return path, argv, err
	}
	shell := u.Shell
	if shell == "" {
		shell = "/bin/sh"
	}
	path, err := find(shell, "", dir)
	if err != nil {
		path, err = find("/bin/sh", "", dir)
	}
	if err != nil {
		return "", nil, &StartError{
			Code: notFound,
			Err:  fmt.Errorf("the image has no shell (%s), so a command must be named: %w", shell, errNoCommand{}),
		}
	}
	return path, []string{"-" + filepath.Base(path)}, nil
}

// find looks up a program as a shell does: a name with a slash is a path, any other is looked up in
// PATH.
func find(name, path, dir string) (string, error) {
	if strings.Contains(name, "/") {
		full := name
		if !filepath.IsAbs(full) {
			full = filepath.Join(dir, full)
		}
		return full, executable(name, full)
	}
	var denied error
	for _, directory := range filepath.SplitList(path) {
		if name == "" {
			break
		}
		if !filepath.IsAbs(directory) {
			directory = filepath.Join(dir, directory)
		}
		full := filepath.Join(directory, name)
		err := executable(name, full)
		if err == nil {
			return full, nil
		}
		if errors.Is(err, fs.ErrPermission) {
			denied = err
		}
	}
	if denied != nil {
		return "", denied
	}
	return "", &StartError{Code: notFound, Err: fmt.Errorf("%s: %w", name, errNoCommand{})}
}

// errNoCommand is fs.ErrNotExist in the words of a shell.
type errNoCommand struct{}

func (errNoCommand) Error() string        { return "command not found" }
func (errNoCommand) Is(target error) bool { return target == fs.ErrNotExist }

// executable reports why full cannot be a program. execve checks whether the user may execute it.
func executable(name, full string) error {
	info, err := os.Stat(full)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return &StartError{Code: notExecutable, Err: fmt.Errorf("%s: %w", name, plain(err))}
	case err != nil:
		return &StartError{Code: notFound, Err: fmt.Errorf("%s: %w", name, plain(err))}
	case info.IsDir():
		return &StartError{Code: notExecutable, Err: fmt.Errorf("%s: %w", name, unix.EISDIR)}
	case info.Mode().Perm()&0o111 == 0:
		return &StartError{Code: notExecutable, Err: fmt.Errorf("%s: %w", name, unix.EACCES)}
	}
	return nil
}

// plain strips the system call and the path off an error, because the message has both already.
func plain(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// run starts the command with these three files as its standard streams.
func (r *Runner) run(c *command, files [3]*os.File) (*child, error) {
	for _, f := range files {
		// Fd makes the file blocking, as programs expect.
		c.attr.Files = append(c.attr.Files, f.Fd())
	}
	kid, err := r.Table.start(c.path, c.argv, &c.attr)
	if err == nil {
		return kid, nil
	}
	code := notExecutable
	if errors.Is(err, fs.ErrNotExist) {
		code = notFound
		err = fmt.Errorf("%w (its interpreter or loader is missing)", err)
	}
	return nil, &StartError{Code: code, Err: fmt.Errorf("%s: %w", c.argv[0], err)}
}
