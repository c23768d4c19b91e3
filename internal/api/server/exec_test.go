package server

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/model"
)

// plays is an agent that does what f says with the command's stream.
func plays(f func(req string, in *proto.Reader, out *proto.Writer)) func(string, net.Conn) {
	return func(_ string, conn net.Conn) {
		in, out := proto.NewReader(conn), proto.NewWriter(conn)
		_, start, err := in.ReadFrame()
		if err == nil {
			f(string(start), in, out)
		}
	}
}

// echo answers with the command's standard input.
func echo(_ string, in *proto.Reader, out *proto.Writer) {
	for {
		kind, payload, err := in.ReadFrame()
		if err != nil {
			return
		}
		if kind == proto.FrameStdin && len(payload) == 0 {
			out.WriteJSON(proto.FrameExit, proto.Exit{Code: 7})
			return
		}
		if kind == proto.FrameStdin {
			out.WriteFrame(proto.FrameAck, proto.AckPayload(len(payload)))
			out.WriteFrame(proto.FrameStdout, payload)
		}
	}
}

func TestExecCall(t *testing.T) {
	t.Parallel()
	w := serve(t)
	var asked string
	w.m.agent.serve = plays(func(req string, in *proto.Reader, out *proto.Writer) {
		asked = req
		out.WriteFrame(proto.FrameStderr, []byte("warning\n"))
		echo(req, in, out)
	})
	stdin := strings.Repeat("ä\x00\n<&>", 100_000)
	got, err := w.client.Guests().Call(deadline(t), "box", api.ExecCall{
		Argv: []string{"cat"}, Env: []string{"A=1"}, User: "nobody", Workdir: "/tmp", Stdin: stdin,
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"argv":["cat"],"env":["A=1"],"user":"nobody","workdir":"/tmp","stdin":true}`; asked != want {
		t.Errorf("the agent was asked %s, want %s", asked, want)
	}
	if got.Code != 7 || got.Signal != "" || got.TimedOut {
		t.Errorf("the command ended with %d %q, timed out: %v", got.Code, got.Signal, got.TimedOut)
	}
	if got.Stdout.Text != stdin || got.Stdout.Truncated {
		t.Errorf("%d bytes of %d came back, truncated: %v", len(got.Stdout.Text), len(stdin), got.Stdout.Truncated)
	}
	if string(got.Stderr.Bytes()) != "warning\n" {
		t.Errorf("standard error is %q", got.Stderr.Bytes())
	}
}

// TestExecCallKeepsBytes sends what is no text both ways.
func TestExecCallKeepsBytes(t *testing.T) {
	t.Parallel()
	w := serve(t)
	w.m.agent.serve = plays(echo)
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	got, err := w.client.Guests().Call(deadline(t), "box", api.ExecCall{Argv: []string{"cat"}, StdinBase64: all})
	if err != nil {
		t.Fatal(err)
	}
	if got.Stdout.Text != "" || !bytes.Equal(got.Stdout.Bytes(), all) {
		t.Errorf("the bytes came back as %+v", got.Stdout)
	}
}

func TestExecCallTruncates(t *testing.T) {
	t.Parallel()
	w := serve(t)
	const written = 300_000
	w.m.agent.serve = plays(func(_ string, _ *proto.Reader, out *proto.Writer) {
		out.Stream(proto.FrameStdout).Write(bytes.Repeat([]byte("x"), written))
		out.WriteFrame(proto.FrameStderr, []byte("short"))
		out.WriteJSON(proto.FrameExit, proto.Exit{Code: 137, Signal: "SIGKILL"})
	})
	got, err := w.client.Guests().Call(deadline(t), "box", api.ExecCall{Argv: []string{"yes"}, MaxOutput: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(got.Stdout.Text); n != 1000 || !got.Stdout.Truncated || got.Stdout.Missing != written-1000 {
		t.Errorf("kept %d bytes, truncated: %v, missing %d", n, got.Stdout.Truncated, got.Stdout.Missing)
	}
	if got.Stderr.Text != "short" || got.Stderr.Truncated {
		t.Errorf("standard error is %+v", got.Stderr)
	}
	if got.Signal != "SIGKILL" || got.Code != 137 {
		t.Errorf("the command ended with %d %q", got.Code, got.Signal)
	}
	if held := w.execBytes.Load(); held != 0 {
		t.Errorf("%d bytes are still held", held)
	}
}

// TestExecCallsShareABound has one call find nothing left of what all calls may hold.
func TestExecCallsShareABound(t *testing.T) {
	t.Parallel()
	w := serve(t)
	w.execBytes.Store(maxExecBytes - 10)
	w.m.agent.serve = plays(func(_ string, _ *proto.Reader, out *proto.Writer) {
		out.WriteFrame(proto.FrameStdout, []byte("12345678"))
		out.WriteFrame(proto.FrameStdout, []byte("12345678"))
		out.WriteFrame(proto.FrameStdout, []byte("1"))
		out.WriteJSON(proto.FrameExit, proto.Exit{})
	})
	got, err := w.client.Guests().Call(deadline(t), "box", api.ExecCall{Argv: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	if got.Stdout.Text != "12345678" || got.Stdout.Missing != 9 {
		t.Errorf("kept %q, missing %d", got.Stdout.Text, got.Stdout.Missing)
	}
}

func TestExecCallTimesOut(t *testing.T) {
	t.Parallel()
	w := serve(t)
	hung := make(chan struct{})
	w.m.agent.serve = plays(func(_ string, in *proto.Reader, out *proto.Writer) {
		out.WriteFrame(proto.FrameStdout, []byte("so far"))
		for {
			kind, _, err := in.ReadFrame()
			if err != nil {
				return
			}
			if kind == proto.FrameHangup {
				close(hung)
				out.WriteJSON(proto.FrameExit, proto.Exit{Code: 129, Signal: "SIGHUP"})
				return
			}
		}
	})
	got, err := w.client.Guests().Call(deadline(t), "box", api.ExecCall{Argv: []string{"sleep"}, Timeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the hang-up", hung)
	if got.Code != api.ExitTimedOut || !got.TimedOut || got.Stdout.Text != "so far" {
		t.Errorf("a command whose time was over came as %+v", got)
	}
}

// TestExecCallEnds ends a call in each way but the command's own.
func TestExecCallEnds(t *testing.T) {
	t.Parallel()
	for what, end := range map[string]struct {
		do   func(w *world, cancel func())
		kind fault.Kind
	}{
		"the client gives up": {func(_ *world, cancel func()) { cancel() }, fault.Canceled},
		"the VM stops": {func(w *world, _ func()) {
			w.Sessions.RecordsChanged(context.Background(), []model.VM{{ID: testID, State: model.Stopped}})
		}, fault.Unavailable},
		"the daemon ends": {func(w *world, _ func()) { w.Sessions.End(errStopping) }, fault.Unavailable},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := serve(t)
			begun, gone := make(chan struct{}), make(chan struct{})
			w.m.agent.serve = plays(func(_ string, in *proto.Reader, _ *proto.Writer) {
				defer close(gone)
				close(begun)
				for {
					if kind, _, err := in.ReadFrame(); err != nil || kind == proto.FrameHangup {
						return
					}
				}
			})
			ctx, cancel := context.WithCancel(deadline(t))
			defer cancel()
			ended := make(chan error, 1)
			go func() {
				_, err := w.client.Guests().Call(ctx, "box", api.ExecCall{Argv: []string{"sleep"}})
				ended <- err
			}()
			await(t, "the command's start", begun)
			end.do(w, cancel)
			await(t, "the guest's notice", gone)
			if err := await(t, "the call's end", ended); fault.KindOf(err) != end.kind {
				t.Errorf("the call ended with %v (%s), want %s", err, fault.KindOf(err), end.kind)
			}
		})
	}
}

func TestExecCallRefusals(t *testing.T) {
	t.Parallel()
	w := serve(t)
	w.m.agent.serve = func(string, net.Conn) { t.Error("the agent was asked") }
	for what, c := range map[string]struct {
		call api.ExecCall
		says string
	}{
		"no command":      {api.ExecCall{}, "argv"},
		"an empty name":   {api.ExecCall{Argv: []string{""}}, "argv"},
		"two inputs":      {api.ExecCall{Argv: []string{"x"}, Stdin: "a", StdinBase64: []byte("b")}, "exclude"},
		"much input":      {api.ExecCall{Argv: []string{"x"}, StdinBase64: make([]byte, api.MaxExecStdin+1)}, "standard input"},
		"a negative time": {api.ExecCall{Argv: []string{"x"}, Timeout: -1}, "timeout"},
		"a long time":     {api.ExecCall{Argv: []string{"x"}, Timeout: 1 << 62}, "timeout"},
		"much output":     {api.ExecCall{Argv: []string{"x"}, MaxOutput: api.MaxExecOutput + 1}, "max_output"},
		"long arguments":  {api.ExecCall{Argv: []string{"x", strings.Repeat("y", proto.MaxFrame)}}, "bytes"},
	} {
		_, err := w.client.Guests().Call(deadline(t), "box", c.call)
		if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v (%s), want something about %q", what, err, fault.KindOf(err), c.says)
		}
	}
}

// TestExecCallHostileGuest has the guest say what no agent says.
func TestExecCallHostileGuest(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		play func(out *proto.Writer)
		kind fault.Kind
	}{
		"a signal that is none": {func(out *proto.Writer) {
			out.WriteJSON(proto.FrameExit, proto.Exit{Code: 1, Signal: "SIG\x1b[2J"})
		}, ""},
		"a status that is none": {func(out *proto.Writer) {
			out.WriteJSON(proto.FrameExit, proto.Exit{Code: 1 << 20})
		}, fault.Unavailable},
		"an end without a word": {func(*proto.Writer) {}, fault.Unavailable},
		"no status":             {func(out *proto.Writer) { out.WriteFrame(proto.FrameExit, []byte("{")) }, fault.Unavailable},
		"an error": {func(out *proto.Writer) {
			out.WriteJSON(proto.FrameError, proto.Error{Kind: "denied", Msg: "no\x1b[2J"})
		}, fault.Denied},
		"an unknown frame": {func(out *proto.Writer) {
			out.WriteFrame(99, nil)
			out.WriteJSON(proto.FrameExit, proto.Exit{})
		}, fault.Unavailable},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := serve(t)
			w.m.agent.serve = plays(func(_ string, _ *proto.Reader, out *proto.Writer) { c.play(out) })
			got, err := w.client.Guests().Call(deadline(t), "box", api.ExecCall{Argv: []string{"x"}})
			if fault.KindOf(err) != c.kind {
				t.Errorf("the call ended with %v (%s), want %q", err, fault.KindOf(err), c.kind)
			}
			if err != nil && strings.Contains(err.Error(), "\x1b") {
				t.Errorf("the guest's error is not clean: %q", err)
			}
			if got.Signal != "" || got.Code < 0 || got.Code > 255 {
				t.Errorf("the command ended with %d %q", got.Code, got.Signal)
			}
		})
	}
}

// TestAttach joins byte streams to an exec stream, as a program does that is not the CLI.
func TestAttach(t *testing.T) {
	t.Parallel()
	w := serve(t)
	w.m.agent.serve = plays(echo)
	stream, err := w.client.Guests().Exec(deadline(t), "box", proto.ExecRequest{Argv: []string{"cat"}, Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	text := strings.Repeat("hello ", 100_000)
	exit, err := stream.Attach(deadline(t), api.Streams{Stdin: strings.NewReader(text), Stdout: &out})
	if err != nil || exit.Code != 7 {
		t.Errorf("the command ended with %+v, %v", exit, err)
	}
	if out.String() != text {
		t.Errorf("%d bytes of %d came back", out.Len(), len(text))
	}
}

// TestAttachHangsUp ends the context of a program whose input never ends.
func TestAttachHangsUp(t *testing.T) {
	t.Parallel()
	w := serve(t)
	gone := make(chan struct{})
	w.m.agent.serve = plays(func(_ string, in *proto.Reader, _ *proto.Writer) {
		defer close(gone)
		for {
			if kind, _, err := in.ReadFrame(); err != nil || kind == proto.FrameHangup {
				return
			}
		}
	})
	stream, err := w.client.Guests().Exec(deadline(t), "box", proto.ExecRequest{Argv: []string{"cat"}, Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(deadline(t))
	input, keep := io.Pipe()
	defer keep.Close()
	ended := make(chan error, 1)
	go func() {
		_, err := stream.Attach(ctx, api.Streams{Stdin: input})
		ended <- err
	}()
	cancel()
	await(t, "the guest's notice", gone)
	if err := await(t, "the end of Attach", ended); fault.KindOf(err) != fault.Canceled {
		t.Errorf("Attach ended with %v", err)
	}
}

// TestVMEndsUnderCommand ends the VM of a command. The guest's connection is gone first, and then
// the record shows the end. The client hears what happened, and the log has it.
func TestVMEndsUnderCommand(t *testing.T) {
	t.Parallel()
	crashed := stopped()
	crashed[0].Spec.Name, crashed[0].LastError = "box", &model.Failure{Msg: "the machine ended (panic)"}
	plain := stopped()
	plain[0].Spec.Name = "box"
	for what, c := range map[string]struct {
		ask     func(w *world) error
		records []model.VM
		says    string
		hint    string
	}{
		"killed": {func(w *world) error { _, err := w.client.VMs().Kill(t.Context(), "box", api.VMKill{}); return err }, plain, "VM box was killed meanwhile", ""},
		"stopped": {func(w *world) error {
			_, err := w.client.VMs().Stop(t.Context(), "box", api.VMStop{}, nil)
			return err
		}, plain, "VM box was stopped meanwhile", ""},
		"crashed":     {nil, crashed, "VM box has ended meanwhile: the machine ended (panic)", "vm logs box"},
		"powered off": {nil, plain, "VM box has ended meanwhile: it is stopped", ""},
		"agent gone":  {nil, nil, "the connection to the guest ended before the command did", "vm logs box"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := serve(t)
			begun, vanish := make(chan struct{}), make(chan struct{})
			w.m.agent.serve = plays(func(string, *proto.Reader, *proto.Writer) {
				close(begun)
				<-vanish
			})
			stream, err := w.client.Guests().Exec(deadline(t), "box", proto.ExecRequest{Argv: []string{"sleep"}})
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			await(t, "the command's start", begun)
			if c.ask != nil {
				if err := c.ask(w); err != nil {
					t.Fatal(err)
				}
			}
			close(vanish)
			if c.records != nil {
				time.AfterFunc(100*time.Millisecond, func() { w.Sessions.RecordsChanged(context.Background(), c.records) })
			}
			_, err = stream.Attach(deadline(t), api.Streams{})
			if err == nil || !strings.HasPrefix(err.Error(), c.says) || fault.KindOf(err) != fault.Unavailable {
				t.Errorf("the command ends with %v of kind %q, want %q", err, fault.KindOf(err), c.says)
			}
			if hint := fault.HintOf(err); !strings.Contains(hint, c.hint) {
				t.Errorf("the hint is %q, want %q in it", hint, c.hint)
			}
			if log := w.logged(); !strings.Contains(log, "a command or a copy ended early") || !strings.Contains(log, c.says) {
				t.Errorf("the log does not have the end of the command:\n%s", log)
			}
		})
	}
}
