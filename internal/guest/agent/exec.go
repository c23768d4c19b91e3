package agent

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/agent/proc"
	"banger/internal/guest/proto"
)

// startTime is how long a client may take to send its command.
const startTime = 30 * time.Second

// exec serves one exec stream: package proto's frames.
func (a *agent) exec(conn net.Conn) {
	defer conn.Close()
	in, out := proto.NewReader(bufio.NewReaderSize(conn, 32<<10)), proto.NewWriter(conn)
	conn.SetReadDeadline(time.Now().Add(startTime))
	req, err := readStart(in)
	if err != nil {
		sendError(out, err)
		return
	}
	conn.SetReadDeadline(time.Time{})
	if req.Detach {
		a.execDetached(req, out)
		return
	}

	stdin := newInput(out)
	process, err := a.runner().Start(req, proc.Streams{
		Stdin:  stdin,
		Stdout: out.Stream(proto.FrameStdout),
		Stderr: out.Stream(proto.FrameStderr),
	})
	if err != nil {
		refuse(out, err)
		return
	}
	go func() {
		a.control(in, stdin, process)
		stdin.close()
		process.Hangup() // the end of the stream ends what it began
	}()
	out.WriteJSON(proto.FrameExit, process.Wait())
}

// execDetached starts a command that outlives its stream. Its output goes to the console, whose log
// the host bounds.
func (a *agent) execDetached(req proto.ExecRequest, out *proto.Writer) {
	if req.TTY {
		sendError(out, fault.New(fault.Invalid, "a detached command has no terminal"))
		return
	}
	console, err := os.OpenFile("/dev/console", os.O_WRONLY|syscall.O_NOCTTY, 0)
	if err != nil {
		sendError(out, fmt.Errorf("opening the console: %w", err))
		return
	}
	process, err := a.runner().Start(req, proc.Streams{Stdin: strings.NewReader(""), Stdout: console, Stderr: console})
	if err != nil {
		console.Close()
		refuse(out, err)
		return
	}
	go func() {
		defer console.Close()
		exit := process.Wait()
		a.log.Info("detached command ended", "command", req.Argv, "code", exit.Code)
	}()
	out.WriteJSON(proto.FrameExit, proto.Exit{})
}

func readStart(in *proto.Reader) (proto.ExecRequest, error) {
	var req proto.ExecRequest
	t, payload, err := in.ReadFrame()
	if err != nil {
		return req, fmt.Errorf("reading what to run: %w", err)
	}
	if t != proto.FrameStart {
		return req, fault.New(fault.Invalid, "the first frame is of type %d, not %d", t, proto.FrameStart)
	}
	if err := json.Unmarshal(payload, &req); err != nil {
		return req, fault.New(fault.Invalid, "reading what to run: %w", err)
	}
	return req, nil
}

// refuse reports why nothing was started. A command that cannot run is reported as by a shell, a
// wrong request as an error.
func refuse(out *proto.Writer, err error) {
	var start *proc.StartError
	if !errors.As(err, &start) {
		sendError(out, err)
		return
	}
	fmt.Fprintf(out.Stream(proto.FrameStderr), "banger: %v\n", err)
	out.WriteJSON(proto.FrameExit, proto.Exit{Code: start.Code})
}

func sendError(out *proto.Writer, err error) {
	out.WriteJSON(proto.FrameError, proto.Error{Kind: string(fault.KindOf(err)), Msg: err.Error()})
}

// control obeys the frames after the first one until the stream ends or the client hangs up.
func (a *agent) control(in *proto.Reader, stdin *input, process proc.Process) {
	for {
		t, payload, err := in.ReadFrame()
		if err != nil {
			return
		}
		switch t {
		case proto.FrameStdin:
			stdin.put(payload)
		case proto.FrameResize:
			var size proto.Size
			if err = json.Unmarshal(payload, &size); err == nil {
				err = process.Resize(size)
			}
		case proto.FrameSignal:
			err = process.Signal(string(payload))
		case proto.FrameHangup:
			return
		}
		if err != nil {
			a.log.Debug("exec frame", "type", t, "error", err)
		}
	}
}

// input is standard input that has arrived and was not read yet. put never blocks a client within
// proto.StdinWindow.
type input struct {
	out *proto.Writer

	mu     sync.Mutex
	cond   *sync.Cond
	buf    bytes.Buffer
	closed bool
	taken  int // not acknowledged yet
}

func newInput(out *proto.Writer) *input {
	in := &input{out: out}
	in.cond = sync.NewCond(&in.mu)
	return in
}

// put adds a frame's payload. An empty one is the end.
func (in *input) put(p []byte) {
	if len(p) == 0 {
		in.close()
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	for in.buf.Len() > 0 && in.buf.Len()+len(p) > proto.StdinWindow && !in.closed {
		in.cond.Wait()
	}
	if !in.closed {
		in.buf.Write(p)
		in.cond.Broadcast()
	}
}

// Read returns bytes that have arrived. A further Read means that the command took the earlier
// bytes, so they are acknowledged.
func (in *input) Read(p []byte) (int, error) {
	in.acknowledge()
	in.mu.Lock()
	defer in.mu.Unlock()
	for in.buf.Len() == 0 && !in.closed {
		in.cond.Wait()
	}
	n, err := in.buf.Read(p) // io.EOF once it is empty and closed
	in.taken += n
	in.cond.Broadcast()
	return n, err
}

func (in *input) acknowledge() {
	in.mu.Lock()
	n := in.taken
	in.taken = 0
	in.mu.Unlock()
	if n > 0 {
		in.out.WriteFrame(proto.FrameAck, proto.AckPayload(n))
	}
}

func (in *input) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	in.cond.Broadcast()
}

var _ io.Reader = (*input)(nil)
