package server

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/guest/proto"
)

// client is the client's end of an upgraded connection.
type client struct {
	*peerConn
	early *bufio.Reader // bytes that arrived with the request
}

const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + proto.StreamProtocol + "\r\n"

// checkUpgrade checks a request for a stream. Call it before any work for the stream.
func checkUpgrade(r *http.Request) error {
	if !strings.EqualFold(r.Header.Get("Upgrade"), proto.StreamProtocol) {
		return fault.New(fault.Invalid, "this operation is a stream: ask for an upgrade to %s", proto.StreamProtocol)
	}
	if r.ContentLength != 0 {
		return fault.New(fault.Invalid, "a request for a stream has no body")
	}
	return nil
}

// upgrade takes the connection out of HTTP. Afterwards errors can only be sent in the stream.
func upgrade(w http.ResponseWriter) (*client, error) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("upgrading the connection: %w", err)
	}
	if out, ok := w.(*reply); ok {
		out.begin(http.StatusSwitchingProtocols)
	}
	pc, ok := conn.(*peerConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("upgrading the connection: it is a %T", conn), conn.Close())
	}
	if err := pc.SetDeadline(time.Time{}); err != nil {
		return nil, errors.Join(err, pc.Close())
	}
	head := switching
	if id := w.Header().Get(api.HeaderRequestID); id != "" {
		head += api.HeaderRequestID + ": " + id + "\r\n"
	}
	if _, err := pc.Write([]byte(head + "\r\n")); err != nil {
		return nil, errors.Join(fmt.Errorf("upgrading the connection: %w", err), pc.Close())
	}
	return &client{peerConn: pc, early: buffered.Reader}, nil
}

// Read reads first the early bytes, and then from the connection without another copy.
func (c *client) Read(p []byte) (int, error) {
	if n := c.early.Buffered(); n > 0 {
		return c.early.Read(p[:min(n, len(p))])
	}
	return c.peerConn.Read(p)
}

// onHangup calls f once when the client has closed both directions of its socket, even if nobody
// reads from the connection because the guest takes no input. Call stop before closing the
// connection.
func (c *client) onHangup(f func()) (stop func(), err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("watching the client: %w", err)
	}
	var dup int
	var dupErr error
	if err := raw.Control(func(fd uintptr) { dup, dupErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, fmt.Errorf("watching the client: %w", err)
	}
	if dupErr != nil {
		return nil, fmt.Errorf("watching the client: %w", dupErr)
	}
	// A second descriptor has its own registration with the runtime's poller, so waiting on it
	// disturbs no reader of the first one and needs no thread.
	file := os.NewFile(uintptr(dup), "client")
	watched, err := file.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watching the client: %w", err), file.Close())
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := watched.Read(hungUp); err == nil {
			f()
		}
	}()
	return func() {
		file.Close()
		<-ended
	}, nil
}

// hungUp reports whether both directions of the socket are closed (POLLHUP, poll(2)).
func hungUp(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
}
