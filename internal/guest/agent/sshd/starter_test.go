package sshd_test

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"github.com/creack/pty"

	"banger/internal/guest/agent/sshd"
	"banger/internal/guest/proto"
)

// starter runs commands on this machine as the user of the test.
type starter struct{}

func (starter) Start(req proto.ExecRequest, s sshd.Streams) (sshd.Process, error) {
	argv := req.Argv
	if len(argv) == 0 {
		argv = []string{"/bin/sh"}
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), req.Env...)
	cmd.Dir = req.Workdir
	if req.TTY {
		return startTTY(cmd, req, s)
	}
	cmd.Stdout, cmd.Stderr = s.Stdout, s.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		io.Copy(in, s.Stdin)
		in.Close()
	}()
	return &process{cmd: cmd}, nil
}

func startTTY(cmd *exec.Cmd, req proto.ExecRequest, s sshd.Streams) (sshd.Process, error) {
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: req.Size.Rows, Cols: req.Size.Cols})
	if err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, tty: f}
	go io.Copy(f, s.Stdin)
	p.output.Go(func() { io.Copy(s.Stdout, f) })
	return p, nil
}

type process struct {
	cmd    *exec.Cmd
	output sync.WaitGroup

	mu  sync.Mutex // the terminal is closed while a resize may be under way
	tty *os.File
}

func (p *process) Wait() proto.Exit {
	err := p.cmd.Wait()
	p.output.Wait()
	p.mu.Lock()
	if p.tty != nil {
		p.tty.Close()
	}
	p.mu.Unlock()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if ws := exit.Sys().(syscall.WaitStatus); ws.Signaled() {
			return proto.Exit{Code: 128 + int(ws.Signal()), Signal: signalName(ws.Signal())}
		}
	}
	return proto.Exit{Code: p.cmd.ProcessState.ExitCode()}
}

var signals = map[string]syscall.Signal{"SIGHUP": syscall.SIGHUP, "SIGINT": syscall.SIGINT, "SIGTERM": syscall.SIGTERM, "SIGKILL": syscall.SIGKILL, "SIGUSR1": syscall.SIGUSR1}

func signalName(n syscall.Signal) string {
	for name, sig := range signals {
		if sig == n {
			return name
		}
	}
	return "SIG" + strings.ToUpper(n.String())
}

func (p *process) Signal(name string) error {
	sig, ok := signals[name]
	if !ok {
		return errors.New("no such signal")
	}
	return syscall.Kill(-p.cmd.Process.Pid, sig)
}

func (p *process) Resize(size proto.Size) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return pty.Setsize(p.tty, &pty.Winsize{Rows: size.Rows, Cols: size.Cols})
}
