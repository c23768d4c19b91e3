package channel

import (
	"sync"

	"banger/internal/guest/proto"
)

// maxGuestStreams is how many streams of the guest's may be open at a time. A granted one may hold
// windowSize bytes on the host, any other one proto.MaxServiceHeader. So a guest can make the host
// hold 8 MiB.
const maxGuestStreams = 8

// ledger follows the streams that the guest opens, by the frames that pass in both directions. The
// host refuses frames by it. The agent counts its own streams by it, so that an honest agent never
// meets a refusal.
type ledger struct {
	mu       sync.Mutex
	open     map[uint32]*guestStream
	reserved int // streams that the agent is about to open
}

// guestStream is one open stream. It is over when both sides have ended their direction, or one has
// reset it.
type guestStream struct {
	granted              bool   // the host has answered
	early                uint32 // bytes of payload that came before
	hostEnded, guestDone bool
}

func newLedger() *ledger { return &ledger{open: make(map[uint32]*guestStream)} }

// ofGuest reports who opens streams with this id: yamux gives even ids to its server, which is the
// agent.
func ofGuest(id uint32) bool { return id%2 == 0 }

// fromGuest takes note of a frame that the guest sends, or refuses it.
func (l *ledger) fromGuest(f frame) error {
	opens := f.flags&flagSYN != 0
	if !ofGuest(f.stream) {
		if opens {
			return errNotOurs
		}
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.open[f.stream]
	if opens {
		if s != nil || len(l.open) >= maxGuestStreams {
			return errNotOurs
		}
		s = &guestStream{}
		l.open[f.stream] = s
		l.reserved = max(l.reserved-1, 0)
	}
	if s == nil { // it is over on our side; yamux drops what still comes
		return nil
	}
	if !s.granted {
		if s.early += f.payload(); s.early > proto.MaxServiceHeader {
			return errNotOurs
		}
	}
	s.guestDone = s.guestDone || f.flags&flagFIN != 0
	l.settle(f, s)
	return nil
}

// fromHost takes note of a frame that the host sends. Its first payload grants the stream.
func (l *ledger) fromHost(f frame) error {
	if !ofGuest(f.stream) {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.open[f.stream]
	if s == nil {
		return nil
	}
	s.granted = s.granted || f.payload() > 0
	s.hostEnded = s.hostEnded || f.flags&flagFIN != 0
	l.settle(f, s)
	return nil
}

// settle forgets a stream that is over.
func (l *ledger) settle(f frame, s *guestStream) {
	if s.hostEnded && s.guestDone || f.flags&flagRST != 0 {
		delete(l.open, f.stream)
	}
}

// reserve makes room for one more stream of the agent's. It reports whether there is room.
func (l *ledger) reserve() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open)+l.reserved >= maxGuestStreams {
		return false
	}
	l.reserved++
	return true
}
