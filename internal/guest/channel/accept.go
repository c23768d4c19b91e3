package channel

import (
	"bufio"
	"context"
	"fmt"
	"io"

	"banger/internal/guest/proto"
)

// Accept waits for a host's hello on raw, answers it, and begins a session as the agent. It drops
// bytes before the hello. It calls heard, which may be nil, between the hello and the answer. It
// takes over raw, whose Close must end a Read under way. When ctx ends, Accept fails.
func Accept(ctx context.Context, raw io.ReadWriteCloser, heard func()) (*Session, error) {
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	s, err := answer(raw, heard)
	if !stop() && err == nil {
		s.Close()
		return nil, context.Cause(ctx)
	}
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("waiting for the host: %w", err)
	}
	return s, nil
}

func answer(raw io.ReadWriteCloser, heard func()) (*Session, error) {
	r := bufio.NewReaderSize(raw, 64<<10)
	h, err := readHello(r)
	if err != nil {
		return nil, err
	}
	if heard != nil {
		heard()
	}
	// The agent speaks one generation. The host reads it in the echo and decides whether it speaks
	// it, too.
	echo := hello{generation: proto.Generation, nonce: h.nonce}
	if _, err := raw.Write(echo.line()); err != nil {
		return nil, err
	}
	return newSession(raw, &afterHello{r: r, hello: h}, true, proto.Generation)
}
