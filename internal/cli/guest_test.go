package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/guest/archive"
	"banger/internal/guest/proto"
	"banger/internal/model"
)

// fakeAgent is a guest that is this host: commands and files are real.
type fakeAgent struct{ spec model.Spec }

func (fakeAgent) Hello(context.Context) (proto.Hello, error) { return proto.Hello{}, nil }
func (fakeAgent) Wake(context.Context) (proto.Hello, error)  { return proto.Hello{}, nil }
func (fakeAgent) Assume(context.Context, proto.Assume) (proto.Assumed, error) {
	return proto.Assumed{}, nil
}
func (fakeAgent) Ports(context.Context) ([]proto.Port, error) {
	return []proto.Port{{Port: 80, Addr: "0.0.0.0"}}, nil
}
func (fakeAgent) Resize(context.Context, string, model.Bytes) error { return nil }
func (fakeAgent) Stats(context.Context) (proto.Stats, error) {
	return proto.Stats{}, nil
}
func (fakeAgent) Freeze(context.Context) (proto.Frozen, error) { return proto.Frozen{}, nil }
func (fakeAgent) Thaw(context.Context, proto.Thaw) error       { return nil }
func (fakeAgent) PowerOff(context.Context, time.Duration) (proto.Ending, error) {
	return proto.Ending{}, nil
}
func (fakeAgent) Close() error { return nil }

func (fakeAgent) Writes(context.Context) (proto.Writes, error) { return proto.Writes{}, nil }

func (fakeAgent) GetFiles(ctx context.Context, path string) (io.ReadCloser, error) {
	if _, err := os.Lstat(path); err != nil {
		return nil, fault.New(fault.NotFound, "%w", err)
	}
	r, w := io.Pipe()
	go func() {
		archive.Pack(ctx, w, path, archive.PackOptions{}) // the stream tells of errors
		w.Close()
	}()
	return r, nil
}

func (fakeAgent) PutFiles(ctx context.Context, path string, stream io.Reader) error {
	return archive.Unpack(ctx, stream, path, archive.UnpackOptions{})
}

// Upgrade runs commands, and echoes what is said to the SSH server.
func (a fakeAgent) Upgrade(_ context.Context, route string) (net.Conn, error) {
	// A socket and not a pipe, so that half of it can be closed as with a real channel.
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	conns := [2]net.Conn{}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "guest")
		conn, err := net.FileConn(f)
		f.Close()
		if err != nil {
			return nil, err
		}
		conns[i] = conn
	}
	switch route {
	case "/v1/exec":
		go fakeExec(conns[1], a.spec)
	case "/v1/ssh":
		go func() {
			io.Copy(conns[1], conns[1])
			conns[1].Close()
		}()
	default:
		return nil, fault.New(fault.NotFound, "no route %s", route)
	}
	return conns[0], nil
}

// fakeExec serves one exec stream with a process of this machine.
func fakeExec(conn net.Conn, spec model.Spec) {
	defer conn.Close()
	in, out := proto.NewReader(conn), proto.NewWriter(conn)
	_, payload, err := in.ReadFrame()
	if err != nil {
		return
	}
	var req proto.ExecRequest
	if err := json.Unmarshal(payload, &req); err != nil {
		return
	}
	if len(req.Argv) == 0 {
		req.Argv = []string{"sh"}
	}
	cmd := exec.Command(req.Argv[0], req.Argv[1:]...)
	cmd.Env = append(os.Environ(), "PS1=$ ")
	for k, v := range spec.Env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.Env = append(cmd.Env, req.Env...)
	cmd.Dir = cmp.Or(req.Workdir, spec.Workdir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	guest := &fakeCommand{cmd: cmd, out: out}
	if err := guest.start(req); err != nil {
		out.WriteFrame(proto.FrameStderr, []byte("sh: "+err.Error()+"\n"))
		out.WriteJSON(proto.FrameExit, proto.Exit{Code: 127})
		return
	}
	go guest.control(in)
	out.WriteJSON(proto.FrameExit, guest.wait())
}

type fakeCommand struct {
	cmd    *exec.Cmd
	out    *proto.Writer
	stdin  io.WriteCloser
	tty    *os.File
	copied sync.WaitGroup
	input  chan []byte
}

func (c *fakeCommand) start(req proto.ExecRequest) error {
	c.input = make(chan []byte, 1024)
	if req.TTY {
		size := &pty.Winsize{Rows: 24, Cols: 80}
		if req.Size != nil {
			size.Rows, size.Cols = req.Size.Rows, req.Size.Cols
		}
		c.cmd.SysProcAttr.Setctty = true
		tty, err := pty.StartWithSize(c.cmd, size)
		if err != nil {
			return err
		}
		c.tty, c.stdin = tty, nopCloser{tty}
		c.copied.Go(func() { io.Copy(c.out.Stream(proto.FrameStdout), tty) })
	} else {
		c.cmd.Stdout, c.cmd.Stderr = c.out.Stream(proto.FrameStdout), c.out.Stream(proto.FrameStderr)
		var err error
		if c.stdin, err = c.cmd.StdinPipe(); err != nil {
			return err
		}
		if err := c.cmd.Start(); err != nil {
			return err
		}
	}
	go func() {
		for data := range c.input {
			n, err := c.stdin.Write(data)
			if err != nil {
				continue
			}
			c.out.WriteFrame(proto.FrameAck, proto.AckPayload(n))
		}
		c.stdin.Close()
	}()
	return nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// control obeys frames until the stream ends or the client hangs up.
func (c *fakeCommand) control(in *proto.Reader) {
	defer syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
	open := true
	for {
		kind, payload, err := in.ReadFrame()
		if err != nil {
			return
		}
		switch kind {
		case proto.FrameStdin:
			if len(payload) > 0 && open {
				c.input <- bytes.Clone(payload)
			} else if open {
				open = false
				close(c.input)
			}
		case proto.FrameSignal:
			syscall.Kill(-c.cmd.Process.Pid, unix.SignalNum(string(payload)))
		case proto.FrameResize:
			var size proto.Size
			if json.Unmarshal(payload, &size) == nil && c.tty != nil {
				pty.Setsize(c.tty, &pty.Winsize{Rows: size.Rows, Cols: size.Cols})
			}
		case proto.FrameHangup:
			return
		}
	}
}

func (c *fakeCommand) wait() proto.Exit {
	err := c.cmd.Wait()
	c.copied.Wait()
	var failed *exec.ExitError
	if !errors.As(err, &failed) {
		return proto.Exit{}
	}
	if status, ok := failed.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		name := unix.SignalName(status.Signal())
		return proto.Exit{Code: 128 + int(status.Signal()), Signal: strings.ToUpper(name)}
	}
	return proto.Exit{Code: failed.ExitCode()}
}
