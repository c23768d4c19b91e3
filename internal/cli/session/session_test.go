package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"

	"syscall"
	"testing"
	"time"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/step"
)

// line is a stream to a daemon that the test simulates.
type line struct {
	conn net.Conn
	in   *proto.Reader
	out  *proto.Writer
}

func (l line) ReadFrame() (proto.FrameType, []byte, error) { return l.in.ReadFrame() }
func (l line) WriteFrame(t proto.FrameType, payload []byte) error {
	return l.out.WriteFrame(t, payload)
}
func (l line) WriteJSON(t proto.FrameType, v any) error { return l.out.WriteJSON(t, v) }
func (l line) Stdin() *proto.Stdin                      { return proto.NewStdin(l.out) }
func (l line) Close() error                             { return l.conn.Close() }

// daemon simulates the other side: it does what the test asks and keeps the frames that it
// receives.
type daemon struct {
	line
	frame chan string
}

func connect(t *testing.T) (line, *daemon) {
	t.Helper()
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	wrap := func(c net.Conn) line { return line{c, proto.NewReader(c), proto.NewWriter(c)} }
	d := &daemon{line: wrap(b), frame: make(chan string, 64)}
	go func() {
		for {
			kind, payload, err := d.ReadFrame()
			if err != nil {
				return
			}
			d.frame <- fmt.Sprintf("%d %s", kind, payload)
		}
	}()
	return wrap(a), d
}

// expect waits for a frame.
func (d *daemon) expect(t *testing.T, kind proto.FrameType, payload string) {
	t.Helper()
	want := fmt.Sprintf("%d %s", kind, payload)
	select {
	case got := <-d.frame:
		if got != want {
			t.Errorf("the daemon got %q, want %q", got, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("the daemon did not get %q", want)
	}
}

type ended struct {
	code int
	err  error
}

// begin runs a session in the background.
func begin(s *Session, signals <-chan os.Signal) <-chan ended {
	done := make(chan ended, 1)
	go func() {
		code, err := s.Run(context.Background(), signals)
		done <- ended{code, err}
	}()
	return done
}

func await(t *testing.T, done <-chan ended) ended {
	t.Helper()
	select {
	case e := <-done:
		return e
	case <-time.After(10 * time.Second):
		t.Fatal("the session did not end")
		return ended{}
	}
}

func TestBootKeepsInputBack(t *testing.T) {
	stream, d := connect(t)
	var out, errs bytes.Buffer
	var events []string
	s := &Session{Stream: stream, In: strings.NewReader("input"), Out: &out, Err: &errs, Boot: true,
		Event: func(e step.Event) { events = append(events, e.Step) }, Started: func() { events = append(events, "started") }}
	done := begin(s, nil)
	for _, name := range []string{"disk", api.EventVM, api.EventExec} {
		if len(d.frame) > 0 {
			t.Errorf("before %s the daemon got %q", name, <-d.frame)
		}
		d.WriteJSON(proto.FrameEvent, step.Event{Step: name, Phase: step.Done})
	}
	d.expect(t, proto.FrameStdin, "input")
	d.expect(t, proto.FrameStdin, "")
	d.WriteFrame(proto.FrameStdout, []byte("out"))
	d.WriteFrame(proto.FrameStderr, []byte("err"))
	d.WriteJSON(proto.FrameExit, proto.Exit{Code: 3})
	d.WriteJSON(proto.FrameEvent, step.Event{Step: api.EventDelete, Phase: step.Failed})
	d.Close()
	if e := await(t, done); e.code != 3 || e.err != nil {
		t.Errorf("it ended with %+v", e)
	}
	if out.String() != "out" || errs.String() != "err" {
		t.Errorf("output %q, errors %q", &out, &errs)
	}
	if want := []string{"disk", api.EventVM, api.EventExec, "started", api.EventDelete}; !slices.Equal(events, want) {
		t.Errorf("events %q, want %q", events, want)
	}
}

func TestEnds(t *testing.T) {
	for name, c := range map[string]struct {
		play func(*daemon)
		code int
		kind fault.Kind
		says string
	}{
		"status":                    {func(d *daemon) { d.WriteJSON(proto.FrameExit, proto.Exit{Code: 137, Signal: "SIGKILL"}) }, 137, "", ""},
		"a status out of range":     {func(d *daemon) { d.WriteJSON(proto.FrameExit, proto.Exit{Code: 300}) }, 44, "", ""},
		"the connection is lost":    {func(*daemon) {}, 0, fault.Unavailable, "the connection ended"},
		"in the middle of a frame":  {func(d *daemon) { d.conn.Write([]byte{byte(proto.FrameStdout), 0, 0, 0, 9, 'x'}) }, 0, fault.Unavailable, "reading from the command"},
		"a frame that is too large": {func(d *daemon) { d.conn.Write([]byte{byte(proto.FrameStdout), 255, 0, 0, 0}) }, 0, fault.Unavailable, "larger"},
		"an error": {func(d *daemon) {
			d.WriteJSON(proto.FrameError, api.StreamProblemOf(fault.New(fault.WrongState, "asleep")))
		}, 0, fault.WrongState, "asleep"},
		"an error of the agent's": {func(d *daemon) { d.WriteJSON(proto.FrameError, proto.Error{Kind: "denied", Msg: "no such user"}) }, 0, fault.Denied, "no such user"},
		"a status that is none":   {func(d *daemon) { d.WriteFrame(proto.FrameExit, []byte("{")) }, 0, fault.Internal, "decoding the exit status"},
		"an event that is none":   {func(d *daemon) { d.WriteFrame(proto.FrameEvent, []byte("{")) }, 0, fault.Internal, "decoding an event"},
		"an unknown frame": {func(d *daemon) {
			d.WriteFrame(99, []byte("new"))
			d.WriteJSON(proto.FrameExit, proto.Exit{})
		}, 0, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			stream, d := connect(t)
			done := begin(&Session{Stream: stream, Out: io.Discard, Err: io.Discard}, nil)
			c.play(d)
			d.Close()
			e := await(t, done)
			if e.code != c.code {
				t.Errorf("exit status %d, want %d", e.code, c.code)
			}
			if kind := fault.KindOf(e.err); kind != c.kind {
				t.Errorf("the error %v is of kind %q, want %q", e.err, kind, c.kind)
			}
			if e.err != nil && !strings.Contains(e.err.Error(), c.says) {
				t.Errorf("the error is %v, want %q in it", e.err, c.says)
			}
		})
	}
}

func TestThreeSignals(t *testing.T) {
	stream, d := connect(t)
	signals := make(chan os.Signal)
	begun := make(chan struct{})
	event := func(step.Event) { close(begun) }
	done := begin(&Session{Stream: stream, Out: io.Discard, Err: io.Discard, Event: event}, signals)
	d.expect(t, proto.FrameStdin, "")
	d.WriteJSON(proto.FrameEvent, step.Event{Step: api.EventExec, Phase: step.Done})
	<-begun
	d.WriteFrame(proto.FrameAck, []byte{0, 0, 0, 0}) // is read after the session knows
	signals <- syscall.SIGWINCH                      // no effect without a terminal
	signals <- syscall.SIGPIPE
	signals <- syscall.SIGINT
	d.expect(t, proto.FrameSignal, "SIGINT")
	signals <- syscall.SIGTERM
	d.expect(t, proto.FrameHangup, "")
	signals <- syscall.SIGINT // the daemon does not answer
	if e := await(t, done); e.code != ExitInterrupted || e.err != nil {
		t.Errorf("it ended with %+v", e)
	}
}

// TestSignalBeforeTheCommand checks that a signal ends a session at once whose command does not run
// yet: nobody could get it.
func TestSignalBeforeTheCommand(t *testing.T) {
	stream, d := connect(t)
	signals := make(chan os.Signal)
	done := begin(&Session{Stream: stream, Out: io.Discard, Err: io.Discard, Grace: time.Hour}, signals)
	d.expect(t, proto.FrameStdin, "")
	d.WriteJSON(proto.FrameEvent, step.Event{Step: "waiting", Phase: step.Started})
	signals <- syscall.SIGTERM
	d.expect(t, proto.FrameHangup, "")
	if e := await(t, done); e.code != ExitInterrupted || e.err != nil {
		t.Errorf("it ended with %+v", e)
	}
}

// TestSignalToAHaltedGuest checks that a signal ends a session whose guest cannot get it.
func TestSignalToAHaltedGuest(t *testing.T) {
	for _, boot := range []bool{false, true} {
		stream, d := connect(t)
		signals := make(chan os.Signal)
		out := make(chan struct{})
		done := begin(&Session{
			Stream: stream, Out: writerFunc(func() { close(out) }), Err: io.Discard, Grace: time.Hour, Boot: boot, Stuck: func() bool { return true },
		}, signals)
		d.WriteFrame(proto.FrameStdout, []byte("x"))
		<-out
		d.expect(t, proto.FrameStdin, "")
		signals <- syscall.SIGTERM
		d.expect(t, proto.FrameSignal, "SIGTERM")
		d.expect(t, proto.FrameHangup, "")
		if boot { // the daemon deletes the VM
			d.Close()
		}
		if e := await(t, done); e.code != ExitInterrupted || e.err != nil {
			t.Errorf("it ended with %+v", e)
		}
	}
}

// writerFunc is called at each write.
type writerFunc func()

func (w writerFunc) Write(p []byte) (int, error) { w(); return len(p), nil }

func TestSignalDuringTheBoot(t *testing.T) {
	stream, d := connect(t)
	signals := make(chan os.Signal)
	done := begin(&Session{Stream: stream, Boot: true, Out: io.Discard, Err: io.Discard}, signals)
	signals <- syscall.SIGINT
	d.expect(t, proto.FrameHangup, "")
	d.WriteJSON(proto.FrameError, api.StreamProblemOf(fault.New(fault.Canceled, "given up")))
	d.Close()
	if e := await(t, done); e.code != ExitInterrupted || e.err != nil {
		t.Errorf("it ended with %+v", e)
	}
}

func TestTimeoutAndGrace(t *testing.T) {
	stream, d := connect(t)
	done := begin(&Session{Stream: stream, Out: io.Discard, Err: io.Discard, Timeout: time.Millisecond, Grace: time.Millisecond}, nil)
	d.expect(t, proto.FrameStdin, "")
	d.expect(t, proto.FrameHangup, "")
	if e := await(t, done); e.code != ExitTimeout || e.err != nil { // the daemon does not answer
		t.Errorf("it ended with %+v", e)
	}
}

type brokenWriter struct{ err error }

func (w brokenWriter) Write([]byte) (int, error) { return 0, w.err }

func TestOutputThatFails(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
		fail bool
	}{{syscall.EPIPE, exitBrokenPipe, false}, {syscall.ENOSPC, 0, true}} {
		stream, d := connect(t)
		done := begin(&Session{Stream: stream, Out: brokenWriter{c.err}, Err: io.Discard}, nil)
		d.expect(t, proto.FrameStdin, "")
		d.WriteFrame(proto.FrameStdout, []byte("x"))
		d.expect(t, proto.FrameHangup, "")
		e := await(t, done)
		if e.code != c.code {
			t.Errorf("output fails with %v: exit status %d, want %d", c.err, e.code, c.code)
		}
		if c.fail && !errors.Is(e.err, c.err) || !c.fail && e.err != nil {
			t.Errorf("output fails with %v: the session's error is %v", c.err, e.err)
		}
	}
}

// TestOutputThatFailsWaits checks that a session whose output fails waits until the daemon has
// deleted the VM. An error of the deletion is reported.
func TestOutputThatFailsWaits(t *testing.T) {
	for _, err := range []error{syscall.EPIPE, syscall.ENOSPC} {
		stream, d := connect(t)
		deleted := make(chan struct{})
		done := begin(&Session{Stream: stream, Out: brokenWriter{err}, Err: io.Discard, Boot: true, Event: func(e step.Event) {
			if e.Step == api.EventDelete {
				close(deleted)
			}
		}}, nil)
		d.WriteJSON(proto.FrameEvent, step.Event{Step: api.EventExec, Phase: step.Done})
		d.expect(t, proto.FrameStdin, "")
		d.WriteFrame(proto.FrameStdout, []byte("x"))
		d.expect(t, proto.FrameHangup, "")
		d.WriteFrame(proto.FrameStdout, []byte("more"))
		d.WriteJSON(proto.FrameExit, proto.Exit{Code: 3})
		d.WriteJSON(proto.FrameEvent, step.Event{Step: api.EventDelete, Phase: step.Failed})
		select {
		case <-deleted:
		case <-time.After(10 * time.Second):
			t.Fatalf("output fails with %v: the session does not read on", err)
		}
		select {
		case e := <-done:
			t.Errorf("output fails with %v: the session ended with %+v before the daemon did", err, e)
		default:
		}
		d.Close()
		await(t, done)
	}
}

func TestEscape(t *testing.T) {
	start := time.Unix(0, 0)
	for _, c := range []struct {
		name string
		keys string
		gap  time.Duration
		want bool
	}{
		{"in one go", "\x1d\x1d\x1d", 0, true},
		{"quickly", "\x1d|\x1d|\x1d", 400 * time.Millisecond, true},
		{"slowly", "\x1d|\x1d|\x1d", 600 * time.Millisecond, false},
		{"slowly, then quickly", "\x1d|\x1d|\x1d\x1d\x1d", 600 * time.Millisecond, true},
		{"with something between", "\x1d\x1dx\x1d", 0, false},
		{"two", "\x1d\x1d", 0, false},
		{"among others", "abc\x1d\x1d\x1ddef", 0, true},
	} {
		var e escape
		now, got := start, false
		for part := range strings.SplitSeq(c.keys, "|") {
			got = e.typed([]byte(part), now)
			now = now.Add(c.gap)
		}
		if got != c.want {
			t.Errorf("escape keys %s: they complete the sequence: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestSignalNames(t *testing.T) {
	if got := signalName(syscall.SIGQUIT); got != "SIGQUIT" {
		t.Errorf("SIGQUIT is called %s", got)
	}
	for sig, want := range map[syscall.Signal]bool{syscall.SIGHUP: true, syscall.SIGWINCH: false, syscall.SIGPIPE: false} {
		if got := Ends(sig); got != want {
			t.Errorf("Ends(%v) is %v, want %v", sig, got, want)
		}
	}
}
