package server

import (
	"context"
	"io"
	"net"
	"sync"
	"time"
)

// linger is how long a client may take to see the end of a stream and close its side. Closing while it still sends would cost it what
// it has not read yet (unix(7): ECONNRESET).
const linger = 2 * time.Second

// bufferSize is what one read takes at most: a few frames of the largest size, and what a unix socket holds by default.
const bufferSize = 128 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

// splice copies bytes both ways, unseen, until both directions have ended or ctx has. With oneLife the stream is over when the guest
// has said all; without it each direction ends by itself, as with TCP. It returns when its goroutines have ended, and leaves both
// connections closed.
func splice(ctx context.Context, c *client, guest net.Conn, oneLife bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		guest.Close()
		c.SetDeadline(time.Now().Add(linger))
	})
	defer stop()
	defer c.Close()
	defer guest.Close()

	watch := func() (unwatch func()) {
		unwatch, err := c.onHangup(cancel)
		if err != nil { // out of file descriptors: better end the stream than leave a command behind
			cancel()
			return func() {}
		}
		return unwatch
	}
	if oneLife {
		defer watch()()
	}
	down := make(chan struct{})
	go func() {
		defer close(down)
		pump(c, guest)
		c.CloseWrite()
		if oneLife {
			guest.Close()
			c.SetReadDeadline(time.Now().Add(linger))
		}
	}()
	if err := pump(guest, c); err != nil {
		pump(io.Discard, c) // so that the client gets to the end of what it is being sent
	} else {
		closeWrite(guest)
		if !oneLife { // only now: what the client sent before it closed has been delivered
			defer watch()()
		}
	}
	<-down
}

// pump copies until the end of from or an error. The buffer comes from a pool, and neither end gets to choose another way.
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
