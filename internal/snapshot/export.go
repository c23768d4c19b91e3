package snapshot

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"runtime"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"banger/internal/disk"
)

// Export writes a snapshot to w as one compressed stream, for Import. It compares all data with the
// sums. If a file is damaged, Export fails with fault.Invalid, and no Import accepts what it wrote.
func Export(ctx context.Context, s *Snapshot, w io.Writer, progress Progress) error {
	if err := export(ctx, s, w, progress); err != nil {
		return fmt.Errorf("exporting snapshot %s: %w", s.dir, err)
	}
	return nil
}

func export(ctx context.Context, s *Snapshot, w io.Writer, progress Progress) error {
	d, err := openDirectory(s.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	data, err := encodeMeta(s.meta)
	if err != nil {
		return err
	}
	total, err := s.dataSize(d)
	if err != nil {
		return err
	}
	// The stream has a sum of its own, so the encoder writes none.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false))
	if err != nil {
		return err
	}
	defer enc.Close()
	e := &exporter{enc: enc, queue: make(chan chan packed, 2*runtime.GOMAXPROCS(0)), meter: meter{report: progress, total: total}}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(e.queue)
		return e.read(ctx, d, s.meta, data)
	})
	group.Go(func() error { return e.write(w) })
	err = group.Wait()
	for result := range e.queue { // results that nobody wrote
		<-result
	}
	if err != nil {
		return err
	}
	e.meter.finish()
	return nil
}

// dataSize returns the bytes of all chunks that contain data: an upper bound of the export's
// content.
func (s *Snapshot) dataSize(d directory) (int64, error) {
	var total int64
	for _, f := range s.meta.files() {
		open, _, err := d.openSized(f, unix.O_RDONLY)
		if err != nil {
			return 0, err
		}
		n, err := chunkedSize(open, int64(f.Size))
		open.Close()
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

func chunkedSize(f *os.File, size int64) (int64, error) {
	var total, counted int64 // total includes all bytes before counted
	for e, err := range disk.Extents(f, size) {
		if err != nil {
			return 0, err
		}
		start := max(counted, e.Start-e.Start%chunkSize)
		end := min(size, (e.End+chunkSize-1)/chunkSize*chunkSize)
		if start < end {
			total += end - start
			counted = end
		}
	}
	return total, nil
}

// exporter is a pipeline: one goroutine reads, one per queued block compresses, and one writes in
// order.
type exporter struct {
	enc   *zstd.Encoder
	queue chan chan packed
	meter meter
}

// packed is a block that is ready to write.
type packed struct {
	block
	data []byte
}

func (e *exporter) read(ctx context.Context, d directory, meta Meta, description []byte) error {
	if err := e.enqueue(ctx, metaOfStream, 0, description); err != nil {
		return err
	}
	for i, f := range meta.files() {
		if err := e.readFile(ctx, d, uint16(i+1), f); err != nil {
			return err
		}
	}
	return e.enqueue(ctx, endOfFiles, 0, nil)
}

func (e *exporter) readFile(ctx context.Context, d directory, number uint16, f file) error {
	open, _, err := d.openSized(f, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer open.Close()
	var s summer
	err = chunks(ctx, open, int64(f.Size), func(offset int64, data []byte) error {
		s.add(offset, data)
		return e.enqueue(ctx, number, offset, data)
	})
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return damaged("%w", err)
	case err != nil:
		return err
	case f.name == deviceFile: // has another kind of sum
		return verify(ctx, f, open)
	case f.Sum != "" && f.Sum != s.sum():
		return wrongSum(open)
	}
	return nil
}

// enqueue starts compressing a copy of data.
func (e *exporter) enqueue(ctx context.Context, number uint16, offset int64, data []byte) error {
	result := make(chan packed, 1)
	select {
	case e.queue <- result:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	content := append(make([]byte, 0, len(data)), data...)
	go func() {
		b := packed{block{file: number, content: uint32(len(content)), offset: uint64(offset)}, content}
		if small := e.enc.EncodeAll(content, make([]byte, 0, len(content))); len(small) < len(content) {
			b.data = small
		}
		b.stored = uint32(len(b.data))
		result <- b
	}()
	return nil
}

func (e *exporter) write(w io.Writer) error {
	out := &sumWriter{w: bufio.NewWriterSize(w, chunkSize), hash: sha256.New()}
	head := binary.BigEndian.AppendUint32([]byte(streamMagic), streamVersion)
	head = binary.BigEndian.AppendUint32(head, 0)
	out.Write(binary.BigEndian.AppendUint64(head, uint64(e.meter.total)))
	for result := range e.queue {
		b := <-result
		out.Write(b.append(nil))
		out.Write(b.data)
		if b.file == endOfFiles {
			out.Write(out.hash.Sum(nil))
			return errors.Join(out.err, out.w.Flush())
		}
		if out.err != nil {
			return out.err
		}
		if b.file != metaOfStream {
			e.meter.add(int(b.content))
		}
	}
	return nil // the reader failed and returns its error
}

// sumWriter hashes what it writes and keeps the first error.
type sumWriter struct {
	w    *bufio.Writer
	hash hash.Hash
	err  error
}

func (s *sumWriter) Write(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	s.hash.Write(p)
	_, s.err = s.w.Write(p)
	return len(p), s.err
}
