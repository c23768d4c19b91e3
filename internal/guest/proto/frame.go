package proto

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// FrameType is the type of a frame of a stream.
type FrameType byte

// Frames to the guest.
const (
	FrameStart FrameType = 1 // an ExecRequest as JSON; the first frame, once
	// FrameStdin carries bytes, within StdinWindow. An empty one closes standard input.
	FrameStdin  FrameType = 2
	FrameResize FrameType = 3 // a Size as JSON
	FrameSignal FrameType = 4 // a signal's name ("SIGINT"), for the command's process group
	FrameHangup FrameType = 5 // the user left: end what this stream began, then close it
)

// Frames from the guest.
const (
	FrameStdout FrameType = 16 // bytes
	FrameStderr FrameType = 17 // bytes
	FrameExit   FrameType = 18 // an Exit as JSON; the last frame
	FrameError  FrameType = 19 // an Error as JSON; the last frame, if nothing was run
	// FrameAck acknowledges bytes of standard input: four bytes in network order. See Stdin.
	FrameAck FrameType = 20
)

// FrameEvent is sent by the daemon only: a step.Event as JSON, about the VM that is being made for
// the stream, or about the command's begin.
const FrameEvent FrameType = 32

// HeaderSize is the length of a frame's header, bytes. A frame is its type, the payload's length as
// four bytes in network order, and the payload.
const HeaderSize = 5

// Writer writes frames. It is safe for concurrent use: frames do not mix.
type Writer struct {
	mu  sync.Mutex
	w   io.Writer
	buf []byte
}

// NewWriter returns a Writer on w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// WriteFrame writes one frame in a single Write. A payload over MaxFrame is an error.
func (w *Writer) WriteFrame(t FrameType, payload []byte) error {
	if len(payload) > MaxFrame {
		return fmt.Errorf("frame of %d bytes is larger than %d", len(payload), MaxFrame)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = append(w.buf[:0], byte(t))
	w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(len(payload)))
	w.buf = append(w.buf, payload...)
	_, err := w.w.Write(w.buf)
	return err
}

// WriteJSON writes v as the payload of one frame.
func (w *Writer) WriteJSON(t FrameType, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.WriteFrame(t, payload)
}

// Stream returns an io.Writer that sends its data as frames of one type, split at MaxFrame. It
// never sends an empty frame.
func (w *Writer) Stream(t FrameType) io.Writer { return streamWriter{w, t} }

type streamWriter struct {
	w *Writer
	t FrameType
}

func (s streamWriter) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		chunk := p[n:min(len(p), n+MaxFrame)]
		if err := s.w.WriteFrame(s.t, chunk); err != nil {
			return n, err
		}
		n += len(chunk)
	}
	return n, nil
}

// Reader reads frames. It is not safe for concurrent use.
type Reader struct {
	r   io.Reader
	buf []byte
}

// NewReader returns a Reader on r. Buffer r if its reads are expensive.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// ReadFrame reads the next frame. The payload is valid until the next call. The end of the stream
// is io.EOF between frames and io.ErrUnexpectedEOF within one. A length over MaxFrame is an error
// before anything is allocated.
func (r *Reader) ReadFrame() (FrameType, []byte, error) {
	var head [HeaderSize]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return 0, nil, err
	}
	n, err := payloadSize(head[:])
	if err != nil {
		return 0, nil, err
	}
	if cap(r.buf) < n {
		r.buf = make([]byte, n)
	}
	payload := r.buf[:n]
	if _, err := io.ReadFull(r.r, payload); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return FrameType(head[0]), payload, nil
}

// payloadSize reads the length of the payload from a header.
func payloadSize(head []byte) (int, error) {
	n := binary.BigEndian.Uint32(head[1:HeaderSize])
	if n > MaxFrame {
		return 0, fmt.Errorf("frame of %d bytes is larger than %d", n, MaxFrame)
	}
	return int(n), nil
}

// Cut returns the frame at the beginning of b without a copy, and the frame's size with its header.
// The size is 0 if b holds only a part of the frame.
func Cut(b []byte) (t FrameType, payload []byte, size int, err error) {
	if len(b) < HeaderSize {
		return 0, nil, 0, nil
	}
	n, err := payloadSize(b)
	if err != nil || len(b) < HeaderSize+n {
		return 0, nil, 0, err
	}
	return FrameType(b[0]), b[HeaderSize : HeaderSize+n], HeaderSize + n, nil
}
