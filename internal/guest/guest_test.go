package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"banger/internal/fault"
	"banger/internal/guest/channel"
	"banger/internal/guest/proto"
	"banger/internal/guest/report"
)

// fake is a guest whose agent answers as the test wants. Every dial is a new raw stream, as after a
// reconnect.
type fake struct {
	handler http.Handler
	dials   atomic.Int32

	mu       sync.Mutex
	sessions []*channel.Session
}

func (f *fake) dial(context.Context) (net.Conn, error) {
	f.dials.Add(1)
	host, guest := net.Pipe()
	go f.serve(guest)
	return host, nil
}

// serve is the agent on one connection.
func (f *fake) serve(raw io.ReadWriteCloser) {
	s, err := channel.Accept(context.Background(), raw, nil)
	if err != nil {
		return
	}
	f.mu.Lock()
	f.sessions = append(f.sessions, s)
	f.mu.Unlock()
	(&http.Server{Handler: f.handler, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}).Serve(s)
}

// die ends all sessions from the guest's side.
func (f *fake) die() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.sessions {
		s.Close()
	}
	f.sessions = nil
}

func newClient(t *testing.T, h http.HandlerFunc) (*Client, *fake) {
	f := &fake{handler: h}
	c := New(f.dial, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { c.Close(); f.die() })
	return c, f
}

func deadline(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func answer(status int, v any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(v)
	}
}

func TestFreezeAndThaw(t *testing.T) {
	var asked []string
	c, _ := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		var req proto.Thaw
		json.NewDecoder(r.Body).Decode(&req)
		asked = append(asked, r.Method+" "+r.URL.Path+" "+string(req.Entropy))
		answer(200, proto.Frozen{Processes: -5})(w, r)
	})
	if f, err := c.Freeze(deadline(t, time.Minute)); err != nil || f.Processes != 0 {
		t.Errorf("freezing returned %+v, %v; want no negative number", f, err)
	}
	if err := c.Thaw(deadline(t, time.Minute), proto.Thaw{Entropy: []byte("seed"), Time: time.Now()}); err != nil {
		t.Error(err)
	}
	if len(asked) != 2 || asked[0] != "POST /v1/freeze " || asked[1] != "POST /v1/thaw seed" {
		t.Errorf("it asked %q", asked)
	}
}

// TestOldAgent asks an agent of an earlier build for a route that it lacks.
func TestOldAgent(t *testing.T) {
	c, _ := newClient(t, http.NewServeMux().ServeHTTP)
	_, err := c.Freeze(deadline(t, time.Minute))
	if fault.KindOf(err) != fault.Unsupported || fault.HintOf(err) == "" {
		t.Errorf("an old agent without the route returned %v with hint %q, want fault.Unsupported with a hint", err, fault.HintOf(err))
	}
	if _, err := c.Upgrade(deadline(t, time.Minute), "/v1/new"); fault.KindOf(err) != fault.Unsupported {
		t.Errorf("a stream: %v", err)
	}
}

func TestHello(t *testing.T) {
	c, f := newClient(t, answer(200, proto.Hello{Generation: 1, Version: "v\x1b[31m1", Kernel: strings.Repeat("k", 5000), Marks: make([]proto.Mark, 500)}))
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			h, err := c.Hello(deadline(t, 20*time.Second))
			if err != nil || h.Version != "v1" || len(h.Kernel) > report.MaxName || len(h.Marks) > maxMarks {
				t.Errorf("the hello is %+v, %v; want it cleaned and bounded", h, err)
			}
		})
	}
	all.Wait()
	if n := f.dials.Load(); n != 1 {
		t.Errorf("%d connections were made for one session, want 1", n)
	}
	f.die()
	if _, err := c.Hello(deadline(t, 20*time.Second)); err != nil || f.dials.Load() != 2 {
		t.Errorf("after the session's end: %v, %d connections", err, f.dials.Load())
	}
}

// TestHostileAnswers: no answer of a guest blocks, floods or deceives the host.
func TestHostileAnswers(t *testing.T) {
	for name, tt := range map[string]struct {
		handler http.HandlerFunc
		want    fault.Kind
		text    string
	}{
		"error":        {answer(404, proto.Error{Kind: "not-found", Msg: "no such file"}), fault.NotFound, ": the guest reports: no such file"},
		"foreign kind": {answer(500, proto.Error{Kind: "root-access", Msg: "x"}), fault.Unavailable, ": the guest reports: x"},
		"banger's own": {answer(500, proto.Error{Kind: "internal", Msg: "x"}), fault.Unavailable, ": the guest reports: x"},
		"no kind":      {answer(500, proto.Error{Msg: "x"}), fault.Unavailable, "status 500"},
		"escape codes": {answer(400, proto.Error{Kind: "invalid", Msg: "\x1b]0;title\x07bad\x1b[2J\nsecond\u202eline"}), fault.Invalid, "]0;titlebad secondline"},
		"long message": {answer(400, proto.Error{Kind: "invalid", Msg: strings.Repeat("é", 5000)}), fault.Invalid, "é"},
		"no reason":    {answer(400, proto.Error{Kind: "denied"}), fault.Denied, "no reason"},
		"empty":        {func(http.ResponseWriter, *http.Request) {}, fault.Unavailable, "no JSON"},
		"not JSON": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, "{")
		}, fault.Unavailable, "decoding"},
		"wrong type": {answer(200, []int{1}), fault.Unavailable, "decoding"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/", http.StatusFound)
		}, fault.Unavailable, "status 302"},
		"teapot":     {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, fault.Unavailable, "status 204"},
		"generation": {answer(200, proto.Hello{Generation: 99}), fault.Unsupported, "generation 99"},
		"endless body": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			for _, err := io.WriteString(w, "["); err == nil; _, err = w.Write(make([]byte, 32<<10)) {
			}
		}, fault.Unavailable, "more than"},
		"endless head": {raw(func(conn net.Conn) {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
			for _, err := io.WriteString(conn, "X: y\r\n"); err == nil; _, err = conn.Write(bytes.Repeat([]byte("X: y\r\n"), 1000)) {
			}
		}), fault.Unavailable, ""},
		"gone":    {raw(func(net.Conn) {}), fault.Unavailable, ""},
		"garbage": {raw(func(conn net.Conn) { io.WriteString(conn, "SSH-2.0-x\r\n\r\n") }), fault.Unavailable, ""},
		"bad header": {raw(func(conn net.Conn) {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\n\x1b[2Jerror: bangerd broke "+strings.Repeat("x", 10_000)+"\r\n\r\n")
		}), fault.Unavailable, "error: bangerd broke"},
		"bad trailer": {raw(func(conn net.Conn) {
			io.WriteString(conn, jsonHead+"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\x1b[2J"+strings.Repeat("x", 3_000)+"\r\n\r\n")
		}), fault.Unavailable, "reading the answer"},
		"bad number": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, `{"generation":1`+strings.Repeat("0", 10_000)+`}`)
		}, fault.Unavailable, "decoding"},
		"bad length": {raw(func(conn net.Conn) {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99999999999999\r\n\r\n{}")
		}), fault.Unavailable, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, _ := newClient(t, tt.handler)
			_, err := c.Hello(deadline(t, 20*time.Second))
			if fault.KindOf(err) != tt.want || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("the answer is %v: %v; want %v with %q", fault.KindOf(err), err, tt.want, tt.text)
			}
			if len(err.Error()) > 2*report.MaxText || strings.ContainsFunc(err.Error(), unicode.IsControl) {
				t.Errorf("message %q", err)
			}
		})
	}
}

// raw takes the connection out of HTTP's hands.
func raw(f func(net.Conn)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		f(conn)
	}
}

// TestSilence: a guest that does not answer costs its caller the deadline, and the session
// continues.
func TestSilence(t *testing.T) {
	c, f := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/stats" {
			<-r.Context().Done()
			return
		}
		answer(200, proto.Hello{Generation: 1})(w, r)
	})
	if _, err := c.Hello(deadline(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Stats(deadline(t, 50*time.Millisecond)); fault.KindOf(err) != fault.Unavailable || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a silent guest returned %v, want the deadline", err)
	}
	if _, err := c.Hello(deadline(t, 20*time.Second)); err != nil || f.dials.Load() != 1 {
		t.Errorf("after a silent request the next one returned %v over %d connections, want 1", err, f.dials.Load())
	}
}

// TestNoGuest: nobody answers the handshake. The attempt continues for the next caller and ends
// with the client.
func TestNoGuest(t *testing.T) {
	var dials atomic.Int32
	c := New(func(context.Context) (net.Conn, error) {
		dials.Add(1)
		host, guest := net.Pipe()
		go io.Copy(io.Discard, guest)
		return host, nil
	}, slog.New(slog.DiscardHandler))
	for range 3 {
		if _, err := c.Hello(deadline(t, 30*time.Millisecond)); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("a guest without an agent returned %v, want fault.Unavailable", err)
		}
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("%d connections were made by one attempt, want 1", n)
	}
	c.Close()
	if _, err := c.Hello(deadline(t, 20*time.Second)); fault.KindOf(err) != fault.Unavailable || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after Close: %v", err)
	}
}

// TestHandover: Assume returns only after the agent beside the init has answered.
func TestHandover(t *testing.T) {
	var hellos atomic.Int32
	c, f := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/assume" {
			answer(200, proto.Assumed{Handover: true})(w, r)
			return
		}
		n := hellos.Add(1)
		if n == 1 { // process 1 has taken the session up, and becomes the init
			<-r.Context().Done()
			return
		}
		answer(200, proto.Hello{Generation: 1, Assumed: true, Init: n > 2, Marks: []proto.Mark{{Name: "beside"}}})(w, r)
	})
	got, err := c.Assume(deadline(t, 20*time.Second), proto.Assume{})
	if err != nil || !got.Handover || len(got.Marks) != 1 || hellos.Load() != 3 || f.dials.Load() < 2 {
		t.Errorf("the handover returned %+v, %v after %d hellos and %d connections", got, err, hellos.Load(), f.dials.Load())
	}
}

// execAgent plays frames to a client that runs a command.
func execAgent(play func(in *proto.Reader, out *proto.Writer)) http.HandlerFunc {
	return raw(func(conn net.Conn) {
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+proto.StreamProtocol+"\r\n\r\n")
		in, out := proto.NewReader(conn), proto.NewWriter(conn)
		in.ReadFrame()
		play(in, out)
	})
}

func TestExec(t *testing.T) {
	for name, tt := range map[string]struct {
		play func(*proto.Reader, *proto.Writer)
		exit proto.Exit
		kind fault.Kind
		out  string
	}{
		"works": {func(_ *proto.Reader, out *proto.Writer) {
			out.WriteFrame(proto.FrameStdout, []byte("a"))
			out.WriteJSON(proto.FrameExit, proto.Exit{Code: 3})
		}, proto.Exit{Code: 3}, "", "a"},
		"foreign frame": {func(_ *proto.Reader, out *proto.Writer) {
			out.WriteFrame(200, []byte("x"))
			out.WriteJSON(proto.FrameExit, proto.Exit{Code: 3})
		}, proto.Exit{}, fault.Unavailable, ""},
		"error": {func(_ *proto.Reader, out *proto.Writer) {
			out.WriteJSON(proto.FrameError, proto.Error{Kind: "invalid", Msg: "no"})
		}, proto.Exit{}, fault.Invalid, ""},
		"gone":     {func(*proto.Reader, *proto.Writer) {}, proto.Exit{}, fault.Unavailable, ""},
		"bad exit": {func(_ *proto.Reader, out *proto.Writer) { out.WriteJSON(proto.FrameExit, proto.Exit{Code: -5}) }, proto.Exit{}, fault.Unavailable, ""},
		"no exit":  {func(_ *proto.Reader, out *proto.Writer) { out.WriteFrame(proto.FrameExit, []byte("zero")) }, proto.Exit{}, fault.Unavailable, ""},
		"no error": {func(_ *proto.Reader, out *proto.Writer) { out.WriteFrame(proto.FrameError, nil) }, proto.Exit{}, fault.Unavailable, ""},
		"acks": {func(_ *proto.Reader, out *proto.Writer) {
			out.WriteFrame(proto.FrameAck, []byte{0xff, 0xff, 0xff, 0xff})
			out.WriteJSON(proto.FrameExit, proto.Exit{})
		}, proto.Exit{}, fault.Unavailable, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, _ := newClient(t, execAgent(tt.play))
			var out bytes.Buffer
			exit, err := c.Exec(deadline(t, 20*time.Second), proto.ExecRequest{}, IO{Stdout: &out})
			if exit != tt.exit || fault.KindOf(err) != tt.kind || out.String() != tt.out {
				t.Errorf("the command ended with %+v, %v, %q; want %+v, %q, %q", exit, err, out.String(), tt.exit, tt.kind, tt.out)
			}
		})
	}
}

// TestStdinWindow: no more than the window is sent to a command that reads nothing.
func TestStdinWindow(t *testing.T) {
	got := make(chan int, 1)
	c, _ := newClient(t, execAgent(func(in *proto.Reader, out *proto.Writer) {
		n := 0
		for n < proto.StdinWindow {
			_, payload, err := in.ReadFrame()
			if err != nil {
				break
			}
			n += len(payload)
		}
		more := make(chan struct{})
		go func() {
			in.ReadFrame()
			close(more)
		}()
		select {
		case <-more:
			n = -1
		case <-time.After(100 * time.Millisecond):
		}
		got <- n
		out.WriteJSON(proto.FrameExit, proto.Exit{})
	}))
	if _, err := c.Exec(deadline(t, 20*time.Second), proto.ExecRequest{}, IO{Stdin: bytes.NewReader(make([]byte, 1<<20))}); err != nil {
		t.Error(err)
	}
	if n := <-got; n != proto.StdinWindow {
		t.Errorf("%d bytes of standard input were sent unread, want %d", n, proto.StdinWindow)
	}
}

func TestUpgradeRefused(t *testing.T) {
	c, _ := newClient(t, answer(409, proto.Error{Kind: "wrong-state", Msg: "not yet"}))
	if _, err := c.Upgrade(deadline(t, 20*time.Second), "/v1/ssh"); fault.KindOf(err) != fault.WrongState {
		t.Errorf("a refused upgrade returned %v, want fault.WrongState", err)
	}
}

// TestPutRefused: an early refusal is reported although the archive has not ended.
func TestPutRefused(t *testing.T) {
	c, _ := newClient(t, answer(400, proto.Error{Kind: "denied", Msg: "read-only"}))
	if err := c.PutFiles(deadline(t, 20*time.Second), "/x", zeros{}); fault.KindOf(err) != fault.Denied {
		t.Errorf("an archive that is refused early returned %v, want fault.Denied", err)
	}
}

func TestFullDisk(t *testing.T) {
	c, _ := newClient(t, answer(409, proto.Error{Kind: "wrong-state", Msg: "no space left on device", Full: true}))
	_, err := c.Hello(deadline(t, 20*time.Second))
	if hint := fault.HintOf(err); !strings.Contains(hint, "banger vm set VM --disk-size") {
		t.Errorf("a full disk of the guest has the hint %q, want the command that enlarges a disk", hint)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
