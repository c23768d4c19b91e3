package agent

import (
	"bytes"
	"io"
	"sync"

	"banger/internal/guest/proto"
)

// input is standard input that has arrived and was not read yet. put never blocks a client within
// proto.StdinWindow.
type input struct {
	out *proto.Writer

	mu     sync.Mutex
	cond   *sync.Cond
	buf    bytes.Buffer
	closed bool
	taken  int // not acknowledged yet
}

func newInput(out *proto.Writer) *input {
	in := &input{out: out}
	in.cond = sync.NewCond(&in.mu)
	return in
}

// put adds a frame's payload. An empty one is the end.
func (in *input) put(p []byte) {
	if len(p) == 0 {
		in.close()
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	for in.buf.Len() > 0 && in.buf.Len()+len(p) > proto.StdinWindow && !in.closed {
		in.cond.Wait()
	}
	if !in.closed {
		in.buf.Write(p)
		in.cond.Broadcast()
	}
}

// Read returns bytes that have arrived. A further Read means that the command took the earlier
// bytes, so they are acknowledged.
func (in *input) Read(p []byte) (int, error) {
	in.acknowledge()
	in.mu.Lock()
	defer in.mu.Unlock()
	for in.buf.Len() == 0 && !in.closed {
		in.cond.Wait()
	}
	n, err := in.buf.Read(p) // io.EOF once it is empty and closed
	in.taken += n
	in.cond.Broadcast()
	return n, err
}

func (in *input) acknowledge() {
	in.mu.Lock()
	n := in.taken
	in.taken = 0
	in.mu.Unlock()
	if n > 0 {
		in.out.WriteFrame(proto.FrameAck, proto.AckPayload(n))
	}
}

func (in *input) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	in.cond.Broadcast()
}

var _ io.Reader = (*input)(nil)
