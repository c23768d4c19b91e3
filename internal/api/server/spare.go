package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/api"
	"banger/internal/fault"
)

// spare holds one file descriptor back. When no other is left, the daemon uses it to answer the
// clients that wait, one after another. Otherwise they would wait without a word.
type spare struct {
	mu     sync.Mutex
	file   *os.File // nil while it is in use, and if it could not be opened again
	closed bool
}

func openSpare() (*spare, error) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("holding a descriptor back: %w", err)
	}
	return &spare{file: f}, nil
}

func (s *spare) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return s.giveUpLocked()
}

func (s *spare) giveUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.giveUpLocked()
}

func (s *spare) giveUpLocked() error {
	if s.file == nil {
		return nil
	}
	f := s.file
	s.file = nil
	return f.Close()
}

// refill holds a descriptor back again. While there is none left, it does nothing.
func (s *spare) refill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil || s.closed {
		return
	}
	if f, err := os.Open(os.DevNull); err == nil {
		s.file = f
	}
}

const (
	maxTurnedAway = 64                     // clients per time; the rest waits for the next one
	turnAwayTime  = 500 * time.Millisecond // for a client to have sent its request
)

// turnAway answers the clients that wait with the reason why they are refused.
func (l *listener) turnAway(from *net.UnixListener, why error) {
	raw, err := from.SyscallConn()
	if err != nil {
		return
	}
	l.spare.giveUp()
	defer l.spare.refill()
	n := 0
	for ; n < maxTurnedAway; n++ {
		fd := -1
		if ctlErr := raw.Control(func(listening uintptr) {
			// The listening socket does not block.
			fd, _, err = unix.Accept4(int(listening), unix.SOCK_CLOEXEC)
		}); ctlErr != nil || err != nil {
			break
		}
		answerAndClose(fd, refusalFor(why))
	}
	if n > 0 {
		l.log.Warn("refusing connections: the daemon has no descriptor left", "connections", n, "error", why)
	}
}

// refusalFor is the HTTP answer to a client that cannot be served.
func refusalFor(why error) []byte {
	p := api.ProblemOf(fault.New(fault.Unavailable, "bangerd has no room for another connection: %w", why))
	body, err := json.Marshal(p)
	if err != nil {
		return nil
	}
	head := fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n",
		p.Status, http.StatusText(p.Status), len(body))
	return append([]byte(head), body...)
}

// answerAndClose reads a request's head, so that the client has sent it, and answers.
func answerAndClose(fd int, answer []byte) {
	defer unix.Close(fd)
	limit := unix.NsecToTimeval(turnAwayTime.Nanoseconds())
	if unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit) != nil ||
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit) != nil {
		return
	}
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || int(cred.Uid) != os.Geteuid() && cred.Uid != 0 {
		return
	}
	buf, head := make([]byte, maxHeader), []byte(nil)
	for deadline := time.Now().Add(turnAwayTime); len(head) < maxHeader && time.Now().Before(deadline); {
		n, err := unix.Read(fd, buf)
		if n <= 0 || err != nil {
			break
		}
		if head = append(head, buf[:n]...); bytes.Contains(head, []byte("\r\n\r\n")) {
			break
		}
	}
	_, _ = unix.Write(fd, answer)
}
