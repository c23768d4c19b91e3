package rootfs

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"banger/internal/disk"
	"banger/internal/fault"
)

// maxWindow bounds a decoder's memory: zstd's --long=27, twice what xz -9 needs.
const maxWindow = 128 << 20

// Decompress returns the uncompressed bytes of r. The first bytes show whether r is gzip, zstd, xz,
// bzip2 or uncompressed. Closing the result does not close r. It may be closed while another
// goroutine reads: that Read ends as soon as r answers.
func Decompress(ctx context.Context, r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 256<<10)
	magic, err := br.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	d, err := decoderFor(ctx, magic, br)
	if err != nil {
		return nil, damaged(err)
	}
	return &decoder{from: d}, nil
}

// decoder attributes errors of decoding to the input. The libraries' decoders must not be closed
// while they read.
type decoder struct {
	mu     sync.Mutex
	from   io.ReadCloser
	closed bool
}

func (d *decoder) Read(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return 0, fs.ErrClosed
	}
	n, err := d.from.Read(p)
	if err != nil && err != io.EOF {
		err = damaged(err)
	}
	return n, err
}

func (d *decoder) Close() error {
	if x, ok := d.from.(*xzReader); ok {
		x.cancel() // ends a Read
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	return d.from.Close()
}

// damaged distinguishes errors of decoding from those of reading and of the context.
func damaged(err error) error {
	var known *fault.Error
	var here *fs.PathError
	if errors.As(err, &known) || errors.As(err, &here) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fault.New(fault.Invalid, "the compressed data is damaged: %w", err)
}

func decoderFor(ctx context.Context, magic []byte, br *bufio.Reader) (io.ReadCloser, error) {
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}): // RFC 1952, section 2.3.1
		return gzip.NewReader(br)
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}), // RFC 8878, section 3.1.1
		len(magic) >= 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:4], []byte{0x2a, 0x4d, 0x18}):
		d, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(2))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case bytes.HasPrefix(magic, []byte{0xfd, '7', 'z', 'X', 'Z', 0}): // .xz, section 2.1.1.1
		return startXz(ctx, br)
	case bytes.HasPrefix(magic, []byte("BZh")):
		return io.NopCloser(bzip2.NewReader(br)), nil
	}
	return io.NopCloser(br), nil
}

// xzReader is the output of a running xz.
type xzReader struct {
	io.Reader
	out    io.Closer
	cmd    *exec.Cmd
	ctx    context.Context
	cancel context.CancelFunc
	stderr bytes.Buffer
	done   bool
}

// startXz decompresses r with the program xz. A block of an xz stream can require 4 GiB of memory.
// The program can limit that, which the Go decoders cannot, and is several times faster.
func startXz(ctx context.Context, r io.Reader) (io.ReadCloser, error) {
	xz, err := disk.Tool("xz", "xz-utils")
	if err != nil {
		return nil, fmt.Errorf("decompressing xz: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	x := &xzReader{ctx: ctx, cancel: cancel}
	x.cmd = exec.CommandContext(ctx, xz, "--decompress", "--stdout", "--threads=1", fmt.Sprintf("--memlimit-decompress=%d", maxWindow))
	x.cmd.Stdin, x.cmd.Stderr = r, &limitedBuffer{buf: &x.stderr}
	x.cmd.Env = append(os.Environ(), "LC_ALL=C", "XZ_OPT=", "XZ_DEFAULTS=")
	out, err := x.cmd.StdoutPipe()
	if err == nil {
		err = x.cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("starting xz: %w", err)
	}
	x.Reader, x.out = out, out
	return x, nil
}

// Read reports an error at the end of the output if xz failed.
func (x *xzReader) Read(p []byte) (int, error) {
	n, err := x.Reader.Read(p)
	if err == io.EOF && !x.done {
		x.done = true
		if werr := x.cmd.Wait(); x.ctx.Err() != nil {
			return n, x.ctx.Err()
		} else if werr != nil {
			return n, fmt.Errorf("decompressing xz: %w: %s", werr, bytes.TrimSpace(x.stderr.Bytes()))
		}
	}
	return n, err
}

func (x *xzReader) Close() error {
	x.cancel()
	if !x.done {
		x.done = true
		x.out.Close()
		x.cmd.Wait() // killed: its status means nothing
	}
	return nil
}

// limitedBuffer keeps the first kilobyte.
type limitedBuffer struct{ buf *bytes.Buffer }

func (l *limitedBuffer) Write(p []byte) (int, error) {
	const most = 1 << 10
	l.buf.Write(p[:min(len(p), max(0, most-l.buf.Len()))])
	return len(p), nil
}
