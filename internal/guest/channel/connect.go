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
	maxStale   = 16 << 20               // bytes before the echo: more than all buffers hold
	firstPause = 5 * time.Millisecond   // between the first two hello lines; it doubles ...
	lastPause  = 200 * time.Millisecond // ... up to this: unread lines pile up during a boot
	fillAfter  = 300 * time.Millisecond // without an echo: a frame may swallow the lines
)

// Connect begins a session as the host. It returns when the agent has answered; on a booting
// machine that takes as long as the boot. It takes over raw and closes it on an error. ctx bounds
// the handshake only.
func Connect(ctx context.Context, raw net.Conn) (*Session, error) {
	r, generation, err := greet(ctx, raw)
	if err != nil {
		raw.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fault.New(fault.Unavailable, "greeting the guest's agent: %w", err)
	}
	return newSession(raw, r, false, generation)
}

// greet sends hello lines until the echo comes. It returns a reader of what follows, and the
// agent's generation.
func greet(ctx context.Context, raw net.Conn) (r io.Reader, generation int, err error) {
	var nonce [nonceBytes]byte
	rand.Read(nonce[:]) // never fails (crypto/rand, Go 1.24)
	h := hello{generation: proto.Generation, nonce: hex.EncodeToString(nonce[:])}

	sendCtx, cancel := context.WithCancel(ctx)
	sent := make(chan error, 1)
	go func() { sent <- repeat(sendCtx, raw, h) }()

	// A deadline in the past ends blocked reads and writes. Stopping the sender must not cut a line
	// in two, so only the end of ctx interrupts its write.
	stop := context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })
	buffered := bufio.NewReaderSize(raw, 64<<10)
	generation, err = awaitEcho(buffered, h)
	if err != nil {
		raw.SetDeadline(time.Unix(1, 0))
	}
	cancel()
	sendErr := <-sent
	if !stop() {
		return nil, 0, context.Cause(ctx)
	}
	if err != nil {
		return nil, 0, err
	}
	return buffered, generation, sendErr
}

// awaitEcho reads up to the echo of h and returns the generation in it.
func awaitEcho(r *bufio.Reader, h hello) (int, error) {
	bounded := &countdown{r: r, left: maxStale}
	for {
		got, err := readHello(bounded)
		if err != nil {
			return 0, err
		}
		if got.nonce != h.nonce {
			continue // an answer to an earlier host
		}
		if got.generation < proto.MinGeneration || got.generation > proto.Generation {
			return 0, fmt.Errorf("the agent speaks generation %d, not %d to %d",
				got.generation, proto.MinGeneration, proto.Generation)
		}
		return got.generation, nil
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

// repeat writes hello lines with growing pauses until ctx ends. That end is no error.
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

// filling completes any frame that an earlier session left unfinished. The agent drops the rest of
// it.
func filling() []byte {
	b := make([]byte, maxWrite+frameHeader)
	for i := range b {
		b[i] = '\n'
	}
	return b
}
