package channel

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/proto"
)

// pair is a real stream with kernel buffers, as between QEMU and us.
func pair(t testing.TB) (host, guest net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		ends[i], err = net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { ends[0].Close(); ends[1].Close() })
	return ends[0], ends[1]
}

func timeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// port is the guest's end. It outlives sessions: closing a session leaves it open.
type port struct {
	net.Conn
	mu sync.Mutex
}

func (p *port) session() io.ReadWriteCloser {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Conn.SetDeadline(time.Time{})
	return &portSession{p, sync.Once{}}
}

type portSession struct {
	*port
	once sync.Once
}

func (s *portSession) Close() error {
	s.once.Do(func() { s.Conn.SetDeadline(time.Unix(1, 0)) })
	return nil
}

// agent accepts sessions on a port one after the other and echoes every stream. It ends with ctx.
func agent(ctx context.Context, p *port) {
	for ctx.Err() == nil {
		s, err := Accept(ctx, p.session(), nil)
		if err != nil {
			if errors.Is(err, io.EOF) {
				return
			}
			continue
		}
		for {
			st, err := s.Accept()
			if err != nil {
				break
			}
			go func() {
				defer st.Close()
				io.Copy(st, st)
			}()
		}
		s.Close()
	}
}

// talk sends n bytes through a stream of its own and expects them back.
func talk(t *testing.T, s *Session, n int) {
	t.Helper()
	st, err := s.Open(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	st.SetDeadline(time.Now().Add(30 * time.Second))
	sent := make([]byte, n)
	rand.Read(sent)
	go st.Write(sent)
	got := make([]byte, n)
	if _, err := io.ReadFull(st, got); err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("a stream does not return its %d bytes: %v", n, err)
	}
}

func TestSession(t *testing.T) {
	host, guest := pair(t)
	go agent(timeout(t), &port{Conn: guest})
	s, err := Connect(timeout(t), host)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var all sync.WaitGroup
	for _, n := range []int{1, maxWrite, maxWrite + 1, 3 << 20} {
		all.Go(func() { talk(t, s, n) })
	}
	all.Wait()
}

// TestStale: bytes of earlier sessions, in either direction, do not reach a new session.
func TestStale(t *testing.T) {
	old := hello{generation: 1, nonce: strings.Repeat("0", 2*nonceBytes)}
	// The head of a 64 KiB frame and a part of its payload.
	frame := append([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0}, make([]byte, 1000)...)
	for name, stale := range map[string]struct{ toGuest, toHost []byte }{
		"nothing":          {},
		"half a frame":     {frame, frame},
		"old hello":        {old.line(), old.line()},
		"old hello, frame": {append(old.line(), frame...), append(old.line(), frame...)},
		"half a hello":     {[]byte("\nBANGER/1 00ff"), []byte("\nBANGER/1 00ff")},
		"text":             {[]byte("login: "), []byte("\nlogin: \n\n\n")},
		"zeros":            {make([]byte, 50_000), make([]byte, 50_000)},
		"long line":        {bytes.Repeat([]byte("B"), 50_000), bytes.Repeat([]byte("BANGER/"), 7000)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host, guest := pair(t)
			host.Write(stale.toGuest)
			guest.Write(stale.toHost)
			go agent(timeout(t), &port{Conn: guest})
			s, err := Connect(timeout(t), host)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			talk(t, s, 100_000)
		})
	}
}

// relay behaves as QEMU: the guest sees one stream while hosts come and go.
type relay struct {
	guest net.Conn
	mu    sync.Mutex
	cur   net.Conn
}

func (r *relay) connect(t *testing.T) net.Conn {
	host, inner := pair(t)
	r.mu.Lock()
	r.cur = inner
	r.mu.Unlock()
	go io.Copy(r.guest, inner) // an old one may still be delivering when the new one begins
	return host
}

func (r *relay) run() {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.guest.Read(buf)
		if err != nil {
			return
		}
		r.mu.Lock()
		r.cur.Write(buf[:n])
		r.mu.Unlock()
	}
}

// TestReconnect: hosts come and go without notice to the guest, also in the middle of a frame.
func TestReconnect(t *testing.T) {
	outer, guest := pair(t)
	r := &relay{guest: outer}
	host := r.connect(t)
	go r.run()
	go agent(timeout(t), &port{Conn: guest})
	for i := range 8 {
		s, err := Connect(timeout(t), host)
		if err != nil {
			t.Fatal(err)
		}
		talk(t, s, 10_000)
		if i%2 == 0 {
			// The head of a frame that is never completed.
			host.Write([]byte{0, 0, 0, 0, 0, 0, 0, 99, 0, 1, 0, 0, 'x'})
		}
		next := r.connect(t)
		s.Close()
		host = next
	}
}

// TestBoot: a host that connects long before the agent starts is answered, and has not filled the
// stream meanwhile.
func TestBoot(t *testing.T) {
	host, guest := pair(t)
	go func() {
		<-time.After(700 * time.Millisecond)
		agent(timeout(t), &port{Conn: guest})
	}()
	s, err := Connect(timeout(t), host)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	talk(t, s, 1000)
}

func TestConnectGivesUp(t *testing.T) {
	for name, guestDoes := range map[string]func(net.Conn){
		"silence": func(net.Conn) {},
		"closed":  func(c net.Conn) { c.Close() },
		"another's echo": func(c net.Conn) {
			c.Write(hello{generation: 1, nonce: strings.Repeat("a", 2*nonceBytes)}.line())
		},
		"another generation": func(c net.Conn) {
			buf := make([]byte, 100)
			n, _ := c.Read(buf)
			h, ok := parseHello(bytes.TrimSpace(buf[:n]))
			if !ok {
				return
			}
			h.generation = 999
			c.Write(h.line())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host, guest := pair(t)
			go guestDoes(guest)
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if s, err := Connect(ctx, host); fault.KindOf(err) != fault.Unavailable {
				t.Errorf("connecting returned %v, %v; want fault.Unavailable", s, err)
			}
			if _, err := host.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
				t.Errorf("the connection is open: %v", err)
			}
		})
	}
}

// TestFlood: a guest that sends without end and without an echo is given up, whatever the deadline.
func TestFlood(t *testing.T) {
	host, guest := pair(t)
	go func() {
		line := hello{generation: proto.Generation, nonce: strings.Repeat("b", 2*nonceBytes)}.line()
		flood := bytes.Repeat(line, 1000)
		for {
			if _, err := guest.Write(flood); err != nil {
				return
			}
		}
	}()
	go io.Copy(io.Discard, guest)
	if _, err := Connect(timeout(t), host); err == nil || !strings.Contains(err.Error(), "no answer in") {
		t.Errorf("connecting to a guest that floods returned %v, want a bound on the bytes before the echo", err)
	}
}

// TestHostileFrames: frames that no peer of ours sends end the session and everything that waits in
// it.
func TestHostileFrames(t *testing.T) {
	for name, frame := range map[string][]byte{
		"ping":       {0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7},
		"type":       {0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"version":    {1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"huge frame": {0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff},
		"window":     {0, 1, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff},
		"stream 0":   {0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0},
		"hello":      hello{generation: 1, nonce: strings.Repeat("c", 2*nonceBytes)}.line(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host, guest := pair(t)
			go func() {
				if _, err := answer(struct{ net.Conn }{guest}, nil); err == nil {
					guest.Write(frame)
				}
			}()
			s, err := Connect(timeout(t), host)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			awaitEnd(t, s)
		})
	}
}

func awaitEnd(t *testing.T, s *Session) {
	t.Helper()
	select {
	case <-s.Done():
	case <-time.After(20 * time.Second):
		t.Error("the session continues after a frame that no peer of ours sends")
	}
}

// TestCloseEndsReads: with yamux alone the reader would wait on.
func TestCloseEndsReads(t *testing.T) {
	host, guest := pair(t)
	go agent(timeout(t), &port{Conn: guest})
	s, err := Connect(timeout(t), host)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	st, err := s.Open(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := st.Read(make([]byte, 1))
		done <- err
	}()
	st.Close()
	if err := <-done; err == nil {
		t.Error("a read from a closed stream succeeds")
	}
}

// TestHalfAFrame: a guest stops in the middle of a frame, as one does whose agent is frozen. The
// deadlines of the stream hold, and other streams are not affected.
func TestHalfAFrame(t *testing.T) {
	host, guest := pair(t)
	go func() {
		if _, err := answer(struct{ net.Conn }{guest}, nil); err != nil {
			return
		}
		guest.Write(rawFrame(typeWindow, 2, 1, nil)) // it accepts the stream
		frame := rawFrame(typeData, 0, 1, []byte("answer"))
		guest.Write(frame[:len(frame)-2])
	}()
	s, err := Connect(timeout(t), host)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	st, err := s.Open(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 50 {
			st.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			if n, err := st.Read(make([]byte, 100)); n > 0 || err == nil {
				t.Errorf("reading half a frame returned %d bytes and %v", n, err)
			}
		}
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("a read outlasts its deadline")
	}
}

func TestAcceptEnds(t *testing.T) {
	_, guest := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := Accept(ctx, guest, nil); err == nil {
		t.Error("accepted nobody")
	}
}

// halting is a host's raw connection whose reads wait while the host is halted.
type halting struct {
	net.Conn
	halt atomic.Pointer[chan struct{}] // closed when the host continues; nil before it is halted
}

func (h *halting) Read(p []byte) (int, error) {
	if over := h.halt.Load(); over != nil {
		<-*over
	}
	return h.Conn.Read(p)
}

// TestHaltedHost halts the host for longer than it takes it to reset a stream, while the agent ends
// one. The host gets all that the agent has sent.
func TestHaltedHost(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it waits for longer than closeTimeout")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan *Session, 1)
	go func() {
		raw, err := l.Accept()
		if err != nil {
			return
		}
		if s, err := Accept(context.Background(), raw, nil); err == nil {
			accepted <- s
		}
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	host := &halting{Conn: raw}
	h, err := Connect(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	agent := <-accepted
	defer agent.Close()
	ours, err := h.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := agent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	host.halt.Store(&over)
	for range 2 { // the first write may reach a read that was under way
		if _, err := theirs.Write([]byte("done")); err != nil {
			t.Fatal(err)
		}
	}
	theirs.Close()
	time.Sleep(closeTimeout + 2*time.Second)
	close(over)
	time.Sleep(time.Second) // the session takes everything in before the reader comes
	got, err := io.ReadAll(ours)
	if string(got) != "donedone" || err != nil {
		t.Errorf("after the halt the host reads %q, %v, want all that was sent", got, err)
	}
}
