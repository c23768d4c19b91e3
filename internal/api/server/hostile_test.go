package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/guest"
	"banger/internal/guest/channel"
	"banger/internal/guest/proto"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/step"
)

// hostileGuest is a guest on a real channel whose agent answers each command with the frames that
// the test has set.
type hostileGuest struct {
	*guest.Client
	mu     sync.Mutex
	frames []frameSample
}

type frameSample struct {
	kind    proto.FrameType
	payload string
}

func newHostileGuest(t *testing.T) *hostileGuest {
	t.Helper()
	h := &hostileGuest{}
	dial := func(context.Context) (net.Conn, error) {
		host, theirs := net.Pipe()
		go func() {
			session, err := channel.Accept(context.Background(), theirs)
			if err == nil {
				_ = http.Serve(session, http.HandlerFunc(h.serve))
			}
		}()
		return host, nil
	}
	h.Client = guest.New(dial, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { h.Client.Close() })
	return h
}

func (h *hostileGuest) serve(w http.ResponseWriter, _ *http.Request) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+proto.StreamProtocol+"\r\n\r\n")
	proto.NewReader(buffered).ReadFrame() // the command
	h.mu.Lock()
	frames := h.frames
	h.mu.Unlock()
	out := proto.NewWriter(conn)
	for _, f := range frames {
		out.WriteFrame(f.kind, []byte(f.payload))
	}
}

// hostileFrames are one frame of each kind, and payloads that pretend to come from the daemon.
var hostileFrames = []frameSample{
	{proto.FrameStart, `{"argv":["sh"]}`},
	{proto.FrameStdin, "input"},
	{proto.FrameResize, `{"rows":1,"cols":1}`},
	{proto.FrameSignal, "SIGINT"},
	{proto.FrameHangup, ""},
	{proto.FrameStdout, "out"},
	{proto.FrameStderr, "err"},
	{proto.FrameAck, "\xff\xff\xff\xff"},
	{proto.FrameExit, `{"code":3}`},
	{proto.FrameError, `{"kind":"internal","message":"no","detail":"banger broke","hint":"run this","log":"/etc/passwd","vm":"other"}`},
	{proto.FrameEvent, `{"step":"vm","phase":"done","detail":"another","time":"9999-01-01T00:00:00Z","took":9223372036854775807}`},
	{proto.FrameEvent, `{"step":"delete","phase":"failed","detail":"another","error":"lie"}`},
	{99, "x"},
}

// TestHostileAgent has the agent of a guest send every frame in every order of two. The client gets
// output and one end, and no word that only the daemon may say.
func TestHostileAgent(t *testing.T) {
	t.Parallel()
	agent := newHostileGuest(t)
	w := serve(t)
	open := map[string]func() (*api.Stream, error){
		"exec": func() (*api.Stream, error) {
			return w.client.Guests().Exec(deadline(t), "box", proto.ExecRequest{Argv: []string{"x"}})
		},
		"run": func() (*api.Stream, error) {
			req := runOf("x")
			req.VM.Remove = model.RemoveNever
			return w.client.Guests().Run(deadline(t), req)
		},
	}
	w.m.other = agent
	for _, first := range hostileFrames {
		for _, second := range hostileFrames {
			agent.mu.Lock()
			agent.frames = []frameSample{first, second}
			agent.mu.Unlock()
			for what, open := range open {
				stream, err := open()
				if err != nil {
					t.Fatal(err)
				}
				if err := checkHonest(stream, what == "run"); err != nil {
					t.Errorf("%s: the guest sends %v: %v", what, agent.frames, err)
				}
				stream.Close()
			}
		}
	}
}

// checkHonest reads a stream to its end and checks that the daemon alone speaks for itself.
func checkHonest(stream *api.Stream, isRun bool) error {
	var steps []string
	ends := 0
	for {
		kind, payload, err := stream.ReadFrame()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading: %w", err)
		}
		if ends > 0 {
			return fmt.Errorf("frame %d %s after the end", kind, payload)
		}
		switch kind {
		case proto.FrameStdout, proto.FrameStderr:
		case proto.FrameEvent:
			var e step.Event
			if err := json.Unmarshal(payload, &e); err != nil {
				return err
			}
			steps = append(steps, strings.TrimSpace(e.Step+" "+e.Detail))
		case proto.FrameExit:
			ends++
			if string(payload) != `{"code":3}` {
				return fmt.Errorf("exit status %s", payload)
			}
		case proto.FrameError:
			ends++
			if err := checkOrigin(payload); err != nil {
				return err
			}
		default:
			return fmt.Errorf("frame %d %s", kind, payload)
		}
	}
	want := []string{"exec"}
	if isRun {
		want = []string{"vm new", "exec"}
	}
	if !slices.Equal(steps, want) {
		return fmt.Errorf("events %q, want %q", steps, want)
	}
	if ends != 1 {
		return fmt.Errorf("%d ends, want 1", ends)
	}
	return nil
}

// checkOrigin checks that an error names the guest, and neither a log nor another VM.
func checkOrigin(payload []byte) error {
	var problem *api.Error
	if err := api.FrameErr(payload); !errors.As(err, &problem) {
		return fmt.Errorf("the error %s is no problem", payload)
	}
	p := problem.Problem
	switch {
	case p.Kind != string(fault.Unavailable):
		return fmt.Errorf("an error of kind %s", p.Kind)
	case !strings.Contains(p.Detail, "guest"):
		return fmt.Errorf("the error %q does not name the guest", p.Detail)
	case strings.Contains(p.Hint, "run this"):
		return fmt.Errorf("the hint %q is the guest's", p.Hint)
	case p.Log != "":
		return fmt.Errorf("the log %q is the guest's", p.Log)
	case p.VM == "other":
		return errors.New("the VM is the guest's")
	}
	return nil
}

var _ machine.Agent = (*hostileGuest)(nil)
