package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/proto"
)

// dialTime bounds connecting within the guest.
const dialTime = 10 * time.Second

// dial answers POST /v1/dial. It connects before it answers, so that a refused connection is an
// error answer.
func dial(w http.ResponseWriter, r *http.Request) error {
	port, err := strconv.ParseUint(r.URL.Query().Get("port"), 10, 16)
	if err != nil || port == 0 {
		return fault.New(fault.Invalid, "%q is not a port", r.URL.Query().Get("port"))
	}
	target, err := dialLocal(r.Context(), int(port))
	if err != nil {
		return fault.New(fault.Unavailable, "connecting to port %d in the guest: %w", port, err)
	}
	defer target.Close()
	conn, err := upgrade(w, r)
	if err != nil {
		return err
	}
	splice(proto.NewTunnel(conn), target.(*net.TCPConn))
	return nil
}

// dialLocal connects to a port of the guest itself: on the loopback addresses first, then on every
// other address on which the kernel reports a listener for this port.
func dialLocal(ctx context.Context, port int) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	var d net.Dialer
	hosts := []string{"127.0.0.1", "::1"}
	if listening, err := listeners(); err == nil {
		for _, l := range listening {
			if l.Port == port {
				hosts = append(hosts, l.Addr)
			}
		}
	}
	var errs []error
	for _, host := range hosts {
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs[0])
}

// halfCloser is a connection whose directions can end separately.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// splice copies both ways until both directions have ended, or one has failed.
func splice(a, b halfCloser) {
	var both sync.WaitGroup
	move := func(to, from halfCloser) {
		_, err := io.Copy(to, from)
		if err == nil {
			err = to.CloseWrite()
		}
		if err != nil {
			a.Close()
			b.Close()
		}
	}
	both.Go(func() { move(a, b) })
	both.Go(func() { move(b, a) })
	both.Wait()
	a.Close()
	b.Close()
}
