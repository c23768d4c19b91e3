package relay

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode"

	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/guest/relay/relaytest"
	"banger/internal/guest/report"
)

// wire is a connection that a test has written in advance. It keeps what is sent to it.
type wire struct {
	io.Reader
	sent bytes.Buffer
}

func (w *wire) Write(p []byte) (int, error)      { return w.sent.Write(p) }
func (w *wire) Close() error                     { return nil }
func (w *wire) LocalAddr() net.Addr              { return nil }
func (w *wire) RemoteAddr() net.Addr             { return nil }
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// started returns a command whose agent sends what from holds.
func started(t testing.TB, from io.Reader) (*Command, *wire) {
	t.Helper()
	w := &wire{Reader: from}
	c, err := Start(w, proto.ExecRequest{Argv: []string{"true"}})
	if err != nil {
		t.Fatal(err)
	}
	return c, w
}

// model returns what a client gets of frames and how the command ends, by the rules in the package
// comment.
func model(frames []relaytest.Frame, input int) (passed []relaytest.Frame, ends string) {
	for _, f := range frames {
		switch {
		case f.Kind == proto.FrameStdout, f.Kind == proto.FrameStderr:
			passed = append(passed, f)
		case f.Kind == proto.FrameAck && f.Payload == relaytest.Ack && input >= 2:
			input -= 2
			passed = append(passed, f)
		case f.Kind == proto.FrameExit && f.Payload == relaytest.Exit:
			return passed, "exit"
		case f.Kind == proto.FrameError && f.Payload != "none":
			return passed, "error"
		default:
			return passed, "broken"
		}
	}
	return passed, "lost"
}

// TestEveryOrder sends every kind of frame in every order of up to three frames.
func TestEveryOrder(t *testing.T) {
	var orders [][]relaytest.Frame
	for _, a := range relaytest.Frames {
		orders = append(orders, []relaytest.Frame{a})
		for _, b := range relaytest.Frames {
			orders = append(orders, []relaytest.Frame{a, b})
			for _, c := range relaytest.Frames {
				orders = append(orders, []relaytest.Frame{a, b, c})
			}
		}
	}
	for _, order := range orders {
		var stream bytes.Buffer
		w := proto.NewWriter(&stream)
		for _, f := range order {
			w.WriteFrame(f.Kind, []byte(f.Payload))
		}
		c, _ := started(t, iotest.HalfReader(&stream))
		c.WriteFrame(proto.FrameStdin, []byte("abc"))
		var client bytes.Buffer
		exit, err := c.Output(&client)
		passed, ends := model(order, 3)
		var want bytes.Buffer
		w = proto.NewWriter(&want)
		for _, f := range passed {
			w.WriteFrame(f.Kind, []byte(f.Payload))
		}
		if !bytes.Equal(client.Bytes(), want.Bytes()) {
			t.Errorf("of %v the client gets %q, want %q", order, client.Bytes(), want.Bytes())
		}
		if got := endOf(exit, err); got != ends {
			t.Errorf("%v ends with %+v, %v, want the end %q", order, exit, err, ends)
		}
		if hint := fault.HintOf(err); hint != "" {
			t.Errorf("%v ends with the guest's hint %q", order, hint)
		}
	}
}

func endOf(exit proto.Exit, err error) string {
	switch {
	case err == nil && exit == proto.Exit{Code: 3}:
		return "exit"
	case errors.Is(err, ErrLost):
		return "lost"
	case fault.KindOf(err) == fault.Unavailable && err.Error() == "the guest reports: no":
		return "error"
	case fault.KindOf(err) == fault.Unavailable && strings.Contains(err.Error(), "broke the protocol"):
		return "broken"
	}
	return "otherwise"
}

func frame(kind proto.FrameType, payload string) relaytest.Frame {
	return relaytest.Frame{Kind: kind, Payload: payload}
}

// TestInput: only what a client may send reaches the agent, encoded again.
func TestInput(t *testing.T) {
	c, w := started(t, strings.NewReader(""))
	w.sent.Reset()
	for _, f := range []struct {
		relaytest.Frame
		ok bool
	}{
		{frame(proto.FrameResize, `{ "rows":2, "cols":3, "more":[] }`), true},
		{frame(proto.FrameResize, "big"), false},
		{frame(proto.FrameSignal, "SIGTERM"), true},
		{frame(proto.FrameSignal, "9"), false},
		{frame(proto.FrameSignal, "SIGTERM\x00"), false},
		{frame(proto.FrameStdin, "in"), true},
		{frame(proto.FrameStdin, ""), true},
		{frame(proto.FrameStdin, "late"), true}, // dropped
		{frame(proto.FrameStart, `{"argv":["rm"]}`), false},
		{frame(proto.FrameStdout, "x"), false},
		{frame(proto.FrameExit, `{"code":0}`), false},
		{frame(proto.FrameEvent, "{}"), false},
		{frame(77, "x"), false},
		{frame(proto.FrameHangup, "now"), true},
	} {
		if err := c.WriteFrame(f.Kind, []byte(f.Payload)); (err == nil) != f.ok || err != nil && fault.KindOf(err) != fault.Invalid {
			t.Errorf("a frame %v of the client's returned %v, want it allowed: %v", f.Frame, err, f.ok)
		}
	}
	var want bytes.Buffer
	out := proto.NewWriter(&want)
	for _, f := range []relaytest.Frame{
		frame(proto.FrameResize, `{"rows":2,"cols":3}`), frame(proto.FrameSignal, "SIGTERM"), frame(proto.FrameStdin, "in"), frame(proto.FrameStdin, ""),
		frame(proto.FrameHangup, ""),
	} {
		out.WriteFrame(f.Kind, []byte(f.Payload))
	}
	if got := w.sent.Bytes(); !bytes.Equal(got, want.Bytes()) {
		t.Errorf("the agent got %q, want %q", got, want.Bytes())
	}
}

// TestClientGone: an error of the client's end is none of the guest's.
func TestClientGone(t *testing.T) {
	var stream bytes.Buffer
	proto.NewWriter(&stream).WriteFrame(proto.FrameStdout, []byte("x"))
	c, _ := started(t, &stream)
	if _, err := c.Output(refusing{}); !errors.Is(err, ErrClient) || errors.Is(err, ErrLost) {
		t.Errorf("a client that is gone leads to %v, want ErrClient", err)
	}
}

type refusing struct{}

func (refusing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// FuzzOutput: whatever a guest sends, the client gets whole frames of output and acknowledgements
// only, which are what the guest sent.
func FuzzOutput(f *testing.F) {
	var all bytes.Buffer
	w := proto.NewWriter(&all)
	for _, s := range relaytest.Frames {
		var one bytes.Buffer
		proto.NewWriter(&one).WriteFrame(s.Kind, []byte(s.Payload))
		f.Add(one.Bytes(), 3)
		w.WriteFrame(s.Kind, []byte(s.Payload))
	}
	f.Add(all.Bytes(), 1000)
	f.Add([]byte{16, 0xff, 0xff, 0xff, 0xff}, 0)
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		at := 0
		if len(in) > 0 {
			at = int(uint(cut) % uint(len(in)))
		}
		c, _ := started(t, io.MultiReader(bytes.NewReader(in[:at]), iotest.OneByteReader(bytes.NewReader(in[at:]))))
		c.WriteFrame(proto.FrameStdin, make([]byte, 1000))
		var client bytes.Buffer
		exit, err := c.Output(&client)
		if !bytes.HasPrefix(in, client.Bytes()) {
			t.Fatal("the client gets what the guest did not send")
		}
		r := proto.NewReader(&client)
		for {
			kind, _, readErr := r.ReadFrame()
			if readErr == io.EOF {
				break
			}
			if readErr != nil || kind != proto.FrameStdout && kind != proto.FrameStderr && kind != proto.FrameAck {
				t.Fatalf("the client gets a frame of type %d, %v", kind, readErr)
			}
		}
		if exit.Code < 0 || exit.Code > 255 || strings.ContainsFunc(exit.Signal, unicode.IsControl) {
			t.Errorf("the exit status is %+v", exit)
		}
		if err != nil && (fault.HintOf(err) != "" || strings.ContainsFunc(err.Error(), unicode.IsControl) || len(err.Error()) > 2*report.MaxText) {
			t.Errorf("the error is %q with hint %q", err, fault.HintOf(err))
		}
	})
}

// FuzzInput: whatever a client sends, the agent gets frames of a client only.
func FuzzInput(f *testing.F) {
	for _, s := range relaytest.Frames {
		f.Add(byte(s.Kind), []byte(s.Payload))
	}
	f.Fuzz(func(t *testing.T, kind byte, payload []byte) {
		c, w := started(t, strings.NewReader(""))
		w.sent.Reset()
		if len(payload) > proto.MaxFrame {
			return
		}
		if err := c.WriteFrame(proto.FrameType(kind), payload); err != nil && w.sent.Len() > 0 {
			t.Fatalf("a refused frame was sent: %v", err)
		}
		r := proto.NewReader(&w.sent)
		for {
			got, p, err := r.ReadFrame()
			if err == io.EOF {
				return
			}
			if err != nil || got < proto.FrameStdin || got > proto.FrameHangup || got != proto.FrameType(kind) {
				t.Fatalf("the agent gets a frame of type %d %q, %v", got, p, err)
			}
		}
	})
}

func BenchmarkOutput(b *testing.B) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() {
		defer theirs.Close()
		in, out := proto.NewReader(theirs), proto.NewWriter(theirs)
		in.ReadFrame()
		chunk := make([]byte, 32<<10)
		for range b.N {
			out.WriteFrame(proto.FrameStdout, chunk)
		}
		out.WriteJSON(proto.FrameExit, proto.Exit{})
	}()
	c, err := Start(ours, proto.ExecRequest{})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(32 << 10)
	b.ReportAllocs()
	if _, err := c.Output(io.Discard); err != nil {
		b.Fatal(err)
	}
}
