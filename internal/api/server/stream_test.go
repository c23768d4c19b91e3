package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/guest/relay"
	"banger/internal/model"
	"banger/internal/step"
)

// cat is a guest's command that copies its input to its output, frame by frame, and then exits with
// 3.
func cat(_ string, conn net.Conn) {
	in, out := proto.NewReader(conn), proto.NewWriter(conn)
	if t, _, err := in.ReadFrame(); err != nil || t != proto.FrameStart {
		return
	}
	for {
		t, payload, err := in.ReadFrame()
		switch {
		case err != nil:
			return
		case t == proto.FrameHangup:
			out.WriteJSON(proto.FrameExit, proto.Exit{Code: 129})
			return
		case t == proto.FrameStdin && len(payload) == 0:
			out.WriteJSON(proto.FrameExit, proto.Exit{Code: 3})
			return
		case t == proto.FrameStdin:
			out.WriteFrame(proto.FrameStdout, payload)
		}
	}
}

// idle is a command that neither reads nor ends. It closes gone when its stream is closed.
func idle(gone chan<- struct{}) func(string, net.Conn) {
	return func(_ string, conn net.Conn) {
		in := proto.NewReader(conn)
		for {
			if _, _, err := in.ReadFrame(); err != nil {
				close(gone)
				return
			}
		}
	}
}

// drain reads a stream to its end.
func drain(t *testing.T, s *api.Stream) (stdout string, events []step.Event, last proto.FrameType, payload []byte) {
	t.Helper()
	var out bytes.Buffer
	for {
		typ, p, err := s.ReadFrame()
		if errors.Is(err, io.EOF) {
			return out.String(), events, last, payload
		}
		if err != nil {
			t.Fatalf("reading the stream: %v", err)
		}
		switch typ {
		case proto.FrameStdout:
			out.Write(p)
		case proto.FrameEvent:
			var e step.Event
			if err := decodeStrict(p, &e); err != nil {
				t.Fatal(err)
			}
			events = append(events, e)
			if e.Step == api.EventExec {
				return out.String(), events, typ, nil
			}
		default:
			last, payload = typ, append([]byte(nil), p...)
		}
	}
}

func exitCode(t *testing.T, typ proto.FrameType, payload []byte) int {
	t.Helper()
	var e proto.Exit
	if typ != proto.FrameExit || decodeStrict(payload, &e) != nil {
		t.Fatalf("the stream ended with frame %d %s", typ, payload)
	}
	return e.Code
}

func TestExec(t *testing.T) {
	t.Parallel()
	w := serve(t)
	w.m.agent.serve = cat
	s, err := w.client.Guests().Exec(deadline(t), "box", proto.ExecRequest{Argv: []string{"cat"}, Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	text := strings.Repeat("0123456789abcdef", 1<<16)
	go func() {
		io.WriteString(s.Writer(proto.FrameStdin), text)
		s.WriteFrame(proto.FrameStdin, nil)
	}()
	drain(t, s) // until the command runs
	out, _, last, payload := drain(t, s)
	if out != text {
		t.Errorf("%d bytes of %d came back", len(out), len(text))
	}
	if code := exitCode(t, last, payload); code != 3 {
		t.Errorf("exit code %d", code)
	}
}

func TestExecRefusals(t *testing.T) {
	t.Parallel()
	w := serve(t)
	// The guest refuses, after the upgrade.
	s, err := w.client.Guests().Exec(deadline(t), "box", proto.ExecRequest{Argv: []string{"true"}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, _, last, payload := drain(t, s)
	err = api.FrameErr(payload)
	var problem *api.Error
	if last != proto.FrameError || fault.KindOf(err) != fault.Unavailable || !errors.As(err, &problem) || problem.Problem.VM != testID {
		t.Errorf("frame %d: %v", last, err)
	}
	// The VM does not run: before the upgrade.
	w.m.agent = nil
	if _, err := w.client.Guests().Exec(deadline(t), "box", proto.ExecRequest{}); fault.KindOf(err) != fault.WrongState {
		t.Errorf("a VM that does not run: %v", err)
	}
	if _, err := w.client.Guests().Exec(deadline(t), "nobody", proto.ExecRequest{}); fault.KindOf(err) != fault.NotFound {
		t.Errorf("no VM: %v", err)
	}
	// The command does not fit a frame.
	if _, err := w.client.Guests().Exec(deadline(t), "box", proto.ExecRequest{Argv: []string{strings.Repeat("x", proto.MaxFrame)}}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a large request: %v", err)
	}
}

func TestExecBadStart(t *testing.T) {
	t.Parallel()
	w := serve(t)
	w.m.agent.serve = cat
	for what, send := range map[string]func(net.Conn){
		"another frame":     func(c net.Conn) { proto.NewWriter(c).WriteFrame(proto.FrameStdin, nil) },
		"no JSON":           func(c net.Conn) { proto.NewWriter(c).WriteFrame(proto.FrameStart, []byte("x")) },
		"an unknown field":  func(c net.Conn) { proto.NewWriter(c).WriteFrame(proto.FrameStart, []byte(`{"argw":[]}`)) },
		"a frame too large": func(c net.Conn) { c.Write([]byte{1, 0xff, 0xff, 0xff, 0xff}) },
	} {
		// The client has no call that sends such frames.
		conn, err := w.client.Guests().SSH(deadline(t), "box/../box")
		if err == nil {
			conn.Close()
			t.Fatal("a path was taken for a name")
		}
		raw := rawExec(t, w)
		send(raw)
		typ, payload, err := proto.NewReader(raw).ReadFrame()
		if err != nil || typ != proto.FrameError || fault.KindOf(api.FrameErr(payload)) != fault.Invalid {
			t.Errorf("%s: frame %d %s, %v", what, typ, payload, err)
		}
		raw.Close()
	}
}

// rawExec opens an exec stream and sends no frame.
func rawExec(t *testing.T, w *world) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", w.client.Socket())
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "POST /v1/vms/box/exec HTTP/1.1\r\nHost: banger\r\nConnection: Upgrade\r\nUpgrade: banger-stream\r\nContent-Length: 0\r\n\r\n")
	var head []byte
	for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
		var b [1]byte
		if _, err := io.ReadFull(conn, b[:]); err != nil {
			t.Fatalf("reading the answer's head: %q, %v", head, err)
		}
		head = append(head, b[0])
	}
	if !strings.HasPrefix(string(head), switching+api.HeaderRequestID+": ") {
		t.Fatalf("the answer's head is %q", head)
	}
	return conn
}

// TestExecEnds ends an exec stream in each way but the command's own, and waits for the guest to
// see it.
func TestExecEnds(t *testing.T) {
	t.Parallel()
	for what, end := range map[string]func(w *world, s *api.Stream){
		"the client closes":       func(_ *world, s *api.Stream) { s.Close() },
		"the VM ends":             func(w *world, _ *api.Stream) { w.Sessions.RecordsChanged(context.Background(), nil) },
		"the VM stops":            func(w *world, _ *api.Stream) { w.Sessions.RecordsChanged(context.Background(), stopped()) },
		"the daemon ends":         func(w *world, _ *api.Stream) { w.Sessions.End(errStopping) },
		"the operations time out": func(w *world, _ *api.Stream) { w.endWork(errStopping) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := serve(t)
			gone := make(chan struct{})
			w.m.agent.serve = idle(gone)
			s, err := w.client.Guests().Exec(deadline(t), "box", proto.ExecRequest{Argv: []string{"sleep"}})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			w.Sessions.RecordsChanged(context.Background(), w.m.List()) // changes nothing
			end(w, s)
			await(t, "the guest's notice", gone)
		})
	}
}

func stopped() []model.VM { return []model.VM{{ID: testID, State: model.Stopped}} }

// TestClientGoneWhileInputIsStuck closes a client whose input the guest does not read. Nobody reads
// from the client then.
func TestClientGoneWhileInputIsStuck(t *testing.T) {
	t.Parallel()
	w := serve(t)
	gone, taken := make(chan struct{}), make(chan struct{})
	w.m.agent.serve = func(_ string, conn net.Conn) {
		<-taken
		io.Copy(io.Discard, conn)
		close(gone)
	}
	s, err := w.client.Guests().Exec(deadline(t), "box", proto.ExecRequest{Argv: []string{"sleep"}, Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	stuck := make(chan struct{})
	go func() {
		defer close(stuck)
		chunk := make([]byte, proto.MaxFrame)
		for s.WriteFrame(proto.FrameStdin, chunk) == nil {
		}
	}()
	s.Close()
	<-stuck
	// The session is over although the guest has not read a byte.
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := w.Sessions.Wait(ctx); err != nil {
		t.Error("the session goes on without its client")
	}
	close(taken)
	await(t, "the guest's notice", gone)
}

// TestDial sends everything, closes that half, and then reads the answer, as many protocols do.
func TestDial(t *testing.T) {
	t.Parallel()
	w := serve(t)
	var route string
	w.m.agent.serve = func(r string, conn net.Conn) {
		route = r
		all, _ := io.ReadAll(conn)
		conn.Write(bytes.ToUpper(all))
	}
	conn, err := w.client.Guests().Dial(deadline(t), "box", 8080)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "hello")
	conn.(interface{ CloseWrite() error }).CloseWrite()
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != "HELLO" || route != "/v1/dial?port=8080" {
		t.Errorf("%q by %s, %v", got, route, err)
	}
	w.m.agent.wg.Wait()
	w.m.agent.serve = nil
	if _, err := w.client.Guests().Dial(deadline(t), "box", 81); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("a closed port: %v", err)
	}
}

// TestDialCloses has either side close while data is on its way.
func TestDialCloses(t *testing.T) {
	t.Parallel()
	w := serve(t)
	got := make(chan string, 1)
	w.m.agent.serve = func(_ string, conn net.Conn) {
		all, _ := io.ReadAll(conn)
		got <- string(all)
		io.Copy(io.Discard, conn)
	}
	conn, err := w.client.Guests().SSH(deadline(t), "box")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("x", 100<<10)
	io.WriteString(conn, text)
	conn.Close() // at once; the data arrives nevertheless
	if all := await(t, "the guest's end", got); all != text {
		t.Errorf("%d bytes of %d arrived", len(all), len(text))
	}

	w.m.agent.serve = func(_ string, conn net.Conn) { io.WriteString(conn, "bye") }
	conn, err = w.client.Guests().SSH(deadline(t), "box")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if all, err := io.ReadAll(conn); err != nil || string(all) != "bye" {
		t.Errorf("%q, %v", all, err)
	}
}

func TestManyStreams(t *testing.T) {
	t.Parallel()
	w := serve(t)
	w.m.agent.serve = cat
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			s, err := w.client.Guests().Exec(deadline(t), "box", proto.ExecRequest{Argv: []string{"cat"}, Stdin: true})
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			s.WriteFrame(proto.FrameStdin, []byte("hi"))
			s.WriteFrame(proto.FrameStdin, nil)
			drain(t, s) // until the command runs
			if out, _, last, payload := drain(t, s); out != "hi" || exitCode(t, last, payload) != 3 {
				t.Errorf("%q", out)
			}
		})
	}
	wg.Wait()
}

// BenchmarkExecThroughput passes a command's output from one socket to another. It compares with a
// copy of the same bytes that looks at none of them.
func BenchmarkExecThroughput(b *testing.B) {
	const chunk = 32 << 10 // what the agent reads from a pipe
	for what, pass := range map[string]func(to, from net.Conn) error{
		"parsed": func(to, from net.Conn) error {
			command, err := relay.Start(from, proto.ExecRequest{})
			if err != nil {
				return err
			}
			_, err = command.Output(to)
			return err
		},
		"unparsed": func(to, from net.Conn) error { return pump(to, from) },
	} {
		b.Run(what, func(b *testing.B) {
			from, agent := pair(b)
			to, client := pair(b)
			go func() {
				out := proto.NewWriter(agent)
				for range b.N {
					out.WriteFrame(proto.FrameStdout, make([]byte, chunk))
				}
				out.WriteJSON(proto.FrameExit, proto.Exit{})
				closeWrite(agent)
			}()
			go io.Copy(io.Discard, struct{ io.Reader }{agent})
			go io.Copy(io.Discard, struct{ io.Reader }{client})
			b.SetBytes(chunk)
			b.ReportAllocs()
			if err := pass(to, from); err != nil {
				b.Fatal(err)
			}
		})
	}
}

func pair(b *testing.B) (net.Conn, net.Conn) {
	b.Helper()
	x, y, err := socketpair()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { x.Close(); y.Close() })
	return x, y
}
