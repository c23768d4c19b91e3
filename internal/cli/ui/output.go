package ui

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
)

// maxLost is how many bytes an Output keeps of a text that was not written: enough for names.
const maxLost = 512

// Output is standard output. It keeps the first error, because an answer that cannot be written is
// a failed command. After an error it writes nothing more. It is safe for concurrent use.
type Output struct {
	w io.Writer

	mu   sync.Mutex
	err  error
	lost []byte
}

// NewOutput returns an Output that writes to w.
func NewOutput(w io.Writer) *Output { return &Output{w: w} }

func (o *Output) Write(p []byte) (n int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		n, o.err = o.w.Write(p)
	}
	if o.err != nil {
		o.lost = append(o.lost, p[n:min(len(p), n+max(0, maxLost+1-len(o.lost)))]...)
	}
	return n, o.err
}

// Failed returns the error of the first write that failed. A reader that has gone, such as head(1),
// is no error.
func (o *Output) Failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if errors.Is(o.err, syscall.EPIPE) {
		return nil
	}
	return o.err
}

// Lost returns the text that was not written, or "" if that is long.
func (o *Output) Lost() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.lost) > maxLost {
		return ""
	}
	return string(o.lost)
}

// file returns the file behind a stream, or nil.
func file(stream any) *os.File {
	if o, ok := stream.(*Output); ok {
		stream = o.w
	}
	f, _ := stream.(*os.File)
	return f
}
