package server

import (
	"context"
	"errors"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/model"
	"banger/internal/step"
)

const runID = "fedcba9876543210"

func runOf(argv ...string) api.Run {
	return api.Run{VM: model.Create{Name: "new", Remove: model.RemoveOnDetach}, Exec: proto.ExecRequest{Argv: argv, Stdin: true}}
}

// started begins a run and reads until the command runs.
func started(t *testing.T, w *world, req api.Run) *api.Stream {
	t.Helper()
	s, err := w.client.Guests().Run(deadline(t), req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if _, events, last, payload := drain(t, s); last != proto.FrameEvent {
		t.Fatalf("the run ended with frame %d %s after %+v", last, payload, events)
	}
	return s
}

func TestRun(t *testing.T) {
	t.Parallel()
	w := serve(t)
	w.m.agent.serve = cat
	w.m.start = func(_ context.Context, report step.Reporter) error {
		report(step.Event{Step: "machine", Phase: step.Done})
		return nil
	}
	s, err := w.client.Guests().Run(deadline(t), runOf("cat"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, events, _, _ := drain(t, s)
	var steps []string
	for _, e := range events {
		steps = append(steps, strings.TrimSpace(e.Step+" "+e.Detail))
	}
	if want := []string{"vm new", "machine", "exec"}; !reflect.DeepEqual(steps, want) {
		t.Errorf("events %q, want %q", steps, want)
	}
	s.WriteFrame(proto.FrameStdin, []byte("hi"))
	s.WriteFrame(proto.FrameStdin, nil)
	out, _, last, payload := drain(t, s)
	if out != "hi" || exitCode(t, last, payload) != 3 {
		t.Errorf("%q", out)
	}
	// The stream has ended, so the VM is gone.
	select {
	case id := <-w.m.deleted:
		if id != runID {
			t.Errorf("VM %s was deleted", id)
		}
	default:
		t.Error("the stream ended before the VM was deleted")
	}
}

// TestRunSendsTheExitFirst delays the deletion until the exit was read.
func TestRunSendsTheExitFirst(t *testing.T) {
	t.Parallel()
	w := serve(t)
	w.m.agent.serve = cat
	read := make(chan struct{})
	w.m.remove = func(ctx context.Context) error {
		select {
		case <-read:
			return errors.New("disk on fire")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s := started(t, w, runOf("cat"))
	s.WriteFrame(proto.FrameStdin, nil)
	typ, payload, err := s.ReadFrame()
	if err != nil || exitCode(t, typ, payload) != 3 {
		t.Fatal(err)
	}
	close(read)
	_, events, _, _ := drain(t, s)
	if len(events) != 1 || events[0].Step != "delete" || events[0].Phase != step.Failed || events[0].Error != "disk on fire" {
		t.Errorf("a deletion that failed was told as %+v", events)
	}
}

func TestRunKeeps(t *testing.T) {
	t.Parallel()
	w := serve(t)
	w.m.agent.serve = cat
	req := runOf("cat")
	req.VM.Remove = model.RemoveNever
	s := started(t, w, req)
	s.WriteFrame(proto.FrameStdin, nil)
	drain(t, s)
	if _, err := w.m.Get(runID); err != nil {
		t.Error("a VM that should stay was deleted")
	}
}

// TestRunEnds ends a run in each way but the command's own. The VM is deleted every time.
func TestRunEnds(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		end  func(w *world, s *api.Stream)
		told fault.Kind // "" if no client is left
	}{
		"the client closes":  {func(_ *world, s *api.Stream) { s.Close() }, ""},
		"the client's half":  {func(_ *world, s *api.Stream) { s.CloseWrite() }, fault.Canceled},
		"hangup":             {func(_ *world, s *api.Stream) { s.WriteFrame(proto.FrameHangup, nil) }, fault.Canceled},
		"the daemon ends":    {func(w *world, _ *api.Stream) { w.Sessions.End(errStopping) }, fault.Unavailable},
		"the guest vanishes": {func(w *world, _ *api.Stream) { close(w.m.agent.vanish) }, fault.Unavailable},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := serve(t)
			w.m.agent.vanish = make(chan struct{})
			w.m.agent.serve = func(_ string, conn net.Conn) {
				ended := make(chan struct{})
				go func() { defer close(ended); io.Copy(io.Discard, conn) }()
				select {
				case <-ended:
				case <-w.m.agent.vanish:
					conn.Close()
					<-ended
				}
			}
			s := started(t, w, runOf("sleep"))
			c.end(w, s)
			if c.told != "" {
				if _, _, last, payload := drain(t, s); last != proto.FrameError || fault.KindOf(api.FrameErr(payload)) != c.told {
					t.Errorf("told frame %d %s", last, payload)
				}
			}
			await(t, "the deletion", w.m.deleted)
		})
	}
}

// TestRunGivenUpWhileStarting cancels during the start: the start ends and the VM is deleted.
func TestRunGivenUpWhileStarting(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		end  func(s *api.Stream)
		told fault.Kind
	}{
		"the client closes": {func(s *api.Stream) { s.Close() }, ""},
		"hangup":            {func(s *api.Stream) { s.WriteFrame(proto.FrameHangup, nil) }, fault.Canceled},
		"interrupt":         {func(s *api.Stream) { s.WriteFrame(proto.FrameSignal, []byte("SIGINT")) }, fault.Canceled},
		"early input":       {func(s *api.Stream) { s.WriteFrame(proto.FrameStdin, []byte("x")) }, fault.Invalid},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := serve(t)
			begun := make(chan struct{})
			w.m.start = func(ctx context.Context, _ step.Reporter) error {
				close(begun)
				<-ctx.Done()
				return ctx.Err()
			}
			s, err := w.client.Guests().Run(deadline(t), runOf("true"))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			await(t, "the start", begun)
			s.WriteJSON(proto.FrameResize, proto.Size{Rows: 1, Cols: 1}) // does not cancel the run
			c.end(s)
			if c.told != "" {
				if _, _, last, payload := drain(t, s); last != proto.FrameError || fault.KindOf(api.FrameErr(payload)) != c.told {
					t.Errorf("told frame %d %s", last, payload)
				}
			}
			await(t, "the deletion", w.m.deleted)
		})
	}
}

func TestRunFails(t *testing.T) {
	t.Parallel()
	w := serve(t)
	w.m.create = func(context.Context, model.Create, step.Reporter) error {
		return fault.New(fault.Exists, "the name is taken")
	}
	fails := func(kind fault.Kind) *api.Error {
		t.Helper()
		s, err := w.client.Guests().Run(deadline(t), runOf("true"))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		_, _, last, payload := drain(t, s)
		var problem *api.Error
		if err := api.FrameErr(payload); last != proto.FrameError || fault.KindOf(err) != kind || !errors.As(err, &problem) {
			t.Fatalf("frame %d %s", last, payload)
		}
		return problem
	}
	fails(fault.Exists)
	if len(w.m.deleted) != 0 {
		t.Error("something was deleted though nothing was created")
	}
	w.m.create = nil
	w.m.start = func(context.Context, step.Reporter) error {
		return &step.Error{Step: "machine", Err: fault.New(fault.Unsupported, "no QEMU").WithHint("install it")}
	}
	if p := fails(fault.Unsupported).Problem; p.Step != "machine" || p.Hint != "install it" || p.VM != runID {
		t.Errorf("%+v", p)
	}
	if id := await(t, "the deletion", w.m.deleted); id != runID {
		t.Errorf("VM %s was deleted", id)
	}
	w.m.start = nil
	fails(fault.Unavailable) // the guest refuses the stream
	await(t, "the deletion", w.m.deleted)
}

func TestRunTimeout(t *testing.T) {
	t.Parallel()
	for what, serveCommand := range map[string]func(string, net.Conn){
		"a command that obeys":       cat,
		"a command that does not":    func(_ string, conn net.Conn) { io.Copy(io.Discard, conn) },
		"a guest that reads nothing": func(_ string, conn net.Conn) { proto.NewReader(conn).ReadFrame(); conn.Write(nil) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := serve(t)
			w.m.agent.serve = serveCommand
			req := runOf("sleep")
			req.Timeout = 50 * time.Millisecond
			s := started(t, w, req)
			_, _, last, payload := drain(t, s)
			if what != "a guest that reads nothing" {
				if code := exitCode(t, last, payload); code != api.ExitTimedOut {
					t.Errorf("exit code %d", code)
				}
			}
			await(t, "the deletion", w.m.deleted)
		})
	}
}

func TestRunEntrypoint(t *testing.T) {
	t.Parallel()
	w := serve(t)
	got := make(chan []string, 1)
	w.m.agent.serve = func(_ string, conn net.Conn) {
		var req proto.ExecRequest
		_, payload, _ := proto.NewReader(conn).ReadFrame()
		decodeStrict(payload, &req)
		got <- req.Argv
		proto.NewWriter(conn).WriteJSON(proto.FrameExit, proto.Exit{})
	}
	for _, c := range []struct {
		entrypoint bool
		argv, want []string
	}{
		{true, nil, []string{"/entry", "default"}},
		{true, []string{"arg"}, []string{"/entry", "arg"}},
		{false, []string{"arg"}, []string{"arg"}},
		{false, nil, nil},
	} {
		req := runOf(c.argv...)
		req.Entrypoint = c.entrypoint
		s, err := w.client.Guests().Run(deadline(t), req)
		if err != nil {
			t.Fatal(err)
		}
		if argv := await(t, "the command", got); !reflect.DeepEqual(argv, c.want) {
			t.Errorf("%v with %q runs %q, want %q", c.entrypoint, c.argv, argv, c.want)
		}
		drain(t, s)
		drain(t, s)
		s.Close()
	}
}
