package agent

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/agent/proc"
	"banger/internal/guest/proto"
)

// startTime is how long a client may take to send its command.
const startTime = 30 * time.Second

// execService runs the host's commands.
type execService struct {
	log      *slog.Logger
	commands commands
}

// exec serves one exec stream: package proto's frames.
func (s *execService) exec(conn net.Conn) {
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
		s.execDetached(req, out)
		return
	}

	stdin := newInput(out)
	process, err := s.commands.runner().Start(req, proc.Streams{
		Stdin:  stdin,
		Stdout: out.Stream(proto.FrameStdout),
		Stderr: out.Stream(proto.FrameStderr),
	})
	if err != nil {
		refuse(out, err)
		return
	}
	go func() {
		s.control(in, stdin, process)
		stdin.close()
		process.Hangup() // the end of the stream ends what it began
	}()
	out.WriteJSON(proto.FrameExit, process.Wait())
}

// execDetached starts a command that outlives its stream. Its output goes to the console, whose log
// the host bounds.
func (s *execService) execDetached(req proto.ExecRequest, out *proto.Writer) {
	if req.TTY {
		sendError(out, fault.New(fault.Invalid, "a detached command has no terminal"))
		return
	}
	console, err := os.OpenFile("/dev/console", os.O_WRONLY|syscall.O_NOCTTY, 0)
	if err != nil {
		sendError(out, fmt.Errorf("opening the console: %w", err))
		return
	}
	process, err := s.commands.runner().Start(req, proc.Streams{Stdin: strings.NewReader(""), Stdout: console, Stderr: console})
	if err != nil {
		console.Close()
		refuse(out, err)
		return
	}
	go func() {
		defer console.Close()
		exit := process.Wait()
		s.log.Info("detached command ended", "command", req.Argv, "code", exit.Code)
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
func (s *execService) control(in *proto.Reader, stdin *input, process proc.Process) {
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
			s.log.Debug("exec frame", "type", t, "error", err)
		}
	}
}
