package channel

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/proto"
)

const (
	maxStale   = 16 << 20               // bytes that may come before the echo: more than all buffers on the way hold
	firstPause = 5 * time.Millisecond   // between the first two hello lines; it doubles ...
	lastPause  = 200 * time.Millisecond // ... up to this: a boot takes seconds, and unread lines pile up in a socket's buffer
	fillAfter  = 300 * time.Millisecond // without an echo: an unfinished frame may be swallowing the lines
)

// Connect begins a session as the host. It returns when the agent has answered, which on a booting machine takes as long as the boot.
// Whatever happens, it takes over raw: closed when it fails. ctx bounds the handshake only.
func Connect(ctx context.Context, raw net.Conn) (*Session, error) {
	r, err := greet(ctx, raw)
	if err != nil {
		raw.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fault.New(fault.Unavailable, "greeting the guest's agent: %w", err)
	}
	return newSession(raw, r, false)
}

// greet sends hello lines until the echo has come, and returns the reader behind it.
func greet(ctx context.Context, raw net.Conn) (io.Reader, error) {
	var nonce [nonceBytes]byte
	rand.Read(nonce[:]) // never fails (crypto/rand, Go 1.24)
	h := hello{generation: proto.Generation, nonce: hex.EncodeToString(nonce[:])}

	sendCtx, cancel := context.WithCancel(ctx)
	sent := make(chan error, 1)
	go func() { sent <- repeat(sendCtx, raw, h) }()

	// Deadlines in the past end blocked reads and writes. Stopping the sender must not cut a line in two, so its
	// write is only interrupted when ctx ends.
	stop := context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })
	r := bufio.NewReaderSize(raw, 64<<10)
	err := awaitEcho(r, h)
	if err != nil {
		raw.SetDeadline(time.Unix(1, 0))
	}
	cancel()
	sendErr := <-sent
	if !stop() {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	return r, sendErr
}

func awaitEcho(r *bufio.Reader, h hello) error {
	bounded := &countdown{r: r, left: maxStale}
	for {
		got, err := readHello(bounded)
		if err != nil {
			return err
		}
		if got.nonce != h.nonce {
			continue // an answer to an earlier host
		}
		if got.generation < proto.MinGeneration || got.generation > proto.Generation {
			return fmt.Errorf("the agent speaks generation %d, not %d to %d", got.generation, proto.MinGeneration, proto.Generation)
		}
		return nil
	}
}

// countdown fails after left bytes.
type countdown struct {
	r    io.ByteReader
	left int
}

func (c *countdown) ReadByte() (byte, error) {
	if c.left--; c.left < 0 {
		return 0, fmt.Errorf("no answer in %d bytes", maxStale)
	}
	return c.r.ReadByte()
}

// repeat writes hello lines, slower and slower, until ctx ends, which is no error.
func repeat(ctx context.Context, w io.Writer, h hello) error {
	line := h.line()
	pause, filled, start := firstPause, false, time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		out := line
		if !filled && time.Since(start) > fillAfter {
			filled = true
			out = append(filling(), line...)
		}
		if _, err := w.Write(out); err != nil {
			return err
		}
		timer.Reset(pause)
		pause = min(2*pause, lastPause)
	}
}

// filling completes any frame that an earlier session left unfinished, and is nothing by itself.
func filling() []byte {
	b := make([]byte, maxWrite+frameHeader)
	for i := range b {
		b[i] = '\n'
	}
	return b
}
