package server

import (
	"context"
	"io"
	"net"
	"sync"
	"time"
)

// linger is the time for a client to see the end of a stream and close its side. If the server
// closed while the client sends, the client would lose unread data (unix(7): ECONNRESET).
const linger = 2 * time.Second

// bufferSize bounds one read: a few of the largest frames, and what a unix socket holds by default.
const bufferSize = 128 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

// splice copies bytes both ways until both directions or ctx have ended. Each direction ends by
// itself, as with TCP. It returns after its goroutines and closes both connections.
func splice(ctx context.Context, c *client, guest net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		guest.Close()
		c.SetDeadline(time.Now().Add(linger))
	})
	defer stop()
	defer c.Close()
	defer guest.Close()

	down := make(chan struct{})
	go func() {
		defer close(down)
		pump(c, guest)
		c.CloseWrite()
	}()
	if err := pump(guest, c); err != nil {
		pump(io.Discard, c) // so that the client can finish sending
	} else {
		closeWrite(guest)
		// after the delivery of what the client sent
		unwatch, err := c.onHangup(cancel)
		if err != nil { // out of file descriptors: leave no stream behind
			cancel()
		} else {
			defer unwatch()
		}
	}
	<-down
}

// pump copies until the end of from or an error. The buffer comes from a pool, and neither end can
// choose another method.
func pump(to io.Writer, from io.Reader) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, *buf)
	return err
}

func closeWrite(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
}
