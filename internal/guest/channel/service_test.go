package channel

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/proto"
)

// connected returns both ends of a session over a real stream.
func connected(t *testing.T) (host, agent *Session) {
	t.Helper()
	h, g := pair(t)
	accepted := make(chan *Session, 1)
	go func() {
		s, _ := Accept(timeout(t), g, nil)
		accepted <- s
	}()
	host, err := Connect(timeout(t), h)
	if err != nil {
		t.Fatalf("connecting: %v", err)
	}
	agent = <-accepted
	t.Cleanup(func() { host.Close(); agent.Close() })
	return host, agent
}

// serve offers services to the guest until the test ends.
func serve(t *testing.T, host *Session, services map[string]Handler) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		host.ServeServices(services, slog.New(slog.DiscardHandler))
	}()
	t.Cleanup(func() {
		host.Close()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Error("serving continues after the session's end")
		}
	})
}

func echo(_ context.Context, conn net.Conn) { io.Copy(conn, conn) }

func TestServiceIsReached(t *testing.T) {
	host, agent := connected(t)
	serve(t, host, map[string]Handler{"echo": echo})
	sent := bytes.Repeat([]byte("data"), 100_000)
	for i := range 3 * maxGuestStreams { // closed streams make room
		conn, err := agent.OpenService(timeout(t), "echo")
		for fault.KindOf(err) == fault.Unavailable { // the host has to close, too
			conn, err = agent.OpenService(timeout(t), "echo")
		}
		if err != nil {
			t.Fatalf("opening stream %d to an offered service: %v", i, err)
		}
		go conn.Write(sent)
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("what the service answers is not what it should: %v", err)
		}
		conn.Close()
	}
}

func TestOtherServicesAreDenied(t *testing.T) {
	for name, services := range map[string]map[string]Handler{"none offered": nil, "another offered": {"echo": echo}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host, agent := connected(t)
			serve(t, host, services)
			for range 2 * maxGuestStreams {
				_, err := agent.OpenService(timeout(t), proto.ServiceSSHAgent)
				if fault.KindOf(err) != fault.Denied && fault.KindOf(err) != fault.Unavailable {
					t.Fatalf("asking for a service that is not offered returned %v, want fault.Denied", err)
				}
			}
			select {
			case <-host.Done():
				t.Error("asking for a service that is not offered ended the session")
			default:
			}
		})
	}
	_, agent := connected(t)
	if _, err := agent.OpenService(timeout(t), "no such name!"); err == nil {
		t.Error("a name that is none was sent")
	}
}

// TestHonestAgentStaysBelowTheBound: the agent refuses the stream that the host would take for an
// attack.
func TestHonestAgentStaysBelowTheBound(t *testing.T) {
	host, agent := connected(t)
	release := make(chan struct{})
	serve(t, host, map[string]Handler{"wait": func(ctx context.Context, _ net.Conn) {
		select {
		case <-release:
		case <-ctx.Done():
		}
	}})
	var all sync.WaitGroup
	var mu sync.Mutex
	kinds := map[fault.Kind]int{}
	for range 4 * maxGuestStreams {
		all.Go(func() {
			_, err := agent.OpenService(timeout(t), "wait")
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				kinds["opened"]++
				return
			}
			kinds[fault.KindOf(err)]++
		})
	}
	all.Wait()
	close(release)
	if kinds["opened"] != maxGuestStreams {
		t.Errorf("%d streams were opened, want %d", kinds["opened"], maxGuestStreams)
	}
	if kinds[fault.Unavailable] != 3*maxGuestStreams {
		t.Errorf("streams ended as %v, want all others unavailable", kinds)
	}
	select {
	case <-host.Done():
		t.Error("an honest agent's streams ended the session")
	default:
	}
}

// rawFrame is a frame as a hostile guest sends it.
func rawFrame(kind byte, flags uint16, id uint32, payload []byte) []byte {
	b := []byte{yamuxVersion, kind}
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint32(b, id)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

// TestHostileGuestStreams: what a guest opens against the rules ends the session, and no payload
// reaches yamux.
func TestHostileGuestStreams(t *testing.T) {
	open := func(id uint32) []byte { return rawFrame(typeWindow, flagSYN, id, nil) }
	var many []byte
	for i := range uint32(maxGuestStreams + 1) {
		many = append(many, open(2+2*i)...)
	}
	for name, bytes := range map[string][]byte{
		"payload before the grant":       append(open(2), rawFrame(typeData, 0, 2, make([]byte, 60_000))...),
		"payload in small frames":        append(open(2), bytes.Repeat(rawFrame(typeData, 0, 2, make([]byte, 10)), 5)...),
		"payload in the opening frame":   rawFrame(typeData, flagSYN, 2, make([]byte, proto.MaxServiceHeader+1)),
		"payload after the guest's end":  append(rawFrame(typeWindow, flagSYN|flagFIN, 2, nil), rawFrame(typeData, 0, 2, make([]byte, 100))...),
		"too many streams":               many,
		"a stream twice":                 append(open(2), open(2)...),
		"a stream of the host's":         open(7),
		"a stream of the host's as data": rawFrame(typeData, flagSYN, 1, make([]byte, 100)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, g := pair(t)
			go func() {
				// The raw end is kept apart from the session that answer makes, so that only these
				// bytes are sent.
				if _, err := answer(struct{ net.Conn }{g}, nil); err == nil {
					g.Write(bytes)
				}
			}()
			s, err := Connect(timeout(t), h)
			if err != nil {
				t.Fatalf("connecting: %v", err)
			}
			defer s.Close()
			// Nobody accepts, as on a host that is busy: the bounds must hold before a stream is
			// accepted.
			awaitEnd(t, s)
		})
	}
}

// TestUngrantedStreamsHoldNoPayload counts what passes the guard when a guest opens as much as it
// can.
func TestUngrantedStreamsHoldNoPayload(t *testing.T) {
	var attack []byte
	for i := range uint32(64) {
		attack = append(attack, rawFrame(typeWindow, flagSYN, 2+2*i, nil)...)
		for range 4 {
			attack = append(attack, rawFrame(typeData, 0, 2+2*i, make([]byte, 64<<10))...)
		}
	}
	passed, err := io.ReadAll(newGuard(nil, iotest.OneByteReader(bytes.NewReader(attack)), newLedger(), false))
	if err != errNotOurs {
		t.Errorf("the guard ends with %v, want errNotOurs", err)
	}
	if bound := maxGuestStreams * (2*frameHeader + proto.MaxServiceHeader); len(passed) > bound {
		t.Errorf("%d bytes of %d reach yamux, want at most %d", len(passed), len(attack), bound)
	}
}

// TestResetsHoldNothing: a guest that opens and resets streams without end neither fills the ledger
// nor the session.
func TestResetsHoldNothing(t *testing.T) {
	l := newLedger()
	for i := range uint32(10_000) {
		for _, flags := range []uint16{flagSYN, flagRST} {
			if err := l.fromGuest(frame{kind: typeWindow, flags: flags, stream: 2 + 2*i}); err != nil {
				t.Fatalf("stream %d: %v", i, err)
			}
		}
	}
	if len(l.open) != 0 {
		t.Errorf("the ledger holds %d streams that were reset, want none", len(l.open))
	}
}

func TestSlowHeaderIsNotWaitedForLongerThanTheSession(t *testing.T) {
	host, agent := connected(t)
	serve(t, host, map[string]Handler{"echo": echo})
	st, err := agent.Open(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	st.Write([]byte{1}) // half a header
	host.Close()
	if _, err := st.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("the stream of a dead session returned %v", err)
	}
}
