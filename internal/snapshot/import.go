package snapshot

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
)

// Limits bound the size of an imported snapshot. A zero field means its default.
type Limits struct {
	Memory model.Bytes // of the machine; model.MaxMemory by default
	Disk   model.Bytes // of each disk; model.MaxDiskSize by default
	Data   model.Bytes // of all files' content but zeros; 256 GiB by default
}

func (l Limits) withDefaults() Limits {
	if l.Memory <= 0 {
		l.Memory = model.MaxMemory
	}
	if l.Disk <= 0 {
		l.Disk = model.MaxDiskSize
	}
	if l.Data <= 0 {
		l.Data = 256 * model.GiB
	}
	return l
}

// pageSize is the unit of zeros that an import leaves as a hole.
const pageSize = 4096

// Incoming says how to import a snapshot. The zero value works.
type Incoming struct {
	Limits   Limits
	Progress Progress
	// Check refuses a snapshot by its description, before anything is made.
	Check func(Meta) error
	// Label returns Meta.Extra, after all was checked and before dir appears.
	Label func(Meta) (json.RawMessage, error)
	// Room ends the import if the host lacks space. Nil: there is always room.
	Room func() error
}

// Import makes the snapshot at dir from a stream of Export, with which r must end. dir appears only
// after all was checked. A bad stream fails with fault.Invalid, an existing dir with Exists, a full
// disk with Unavailable.
func Import(ctx context.Context, r io.Reader, dir string, how Incoming) (*Snapshot, error) {
	how.Limits = how.Limits.withDefaults()
	in := &importer{r: bufio.NewReaderSize(r, 64<<10), hash: sha256.New(), how: how, room: disk.NewRoom(how.Room), meter: meter{report: how.Progress}}
	s, err := in.run(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("importing snapshot: %w", disk.NoSpace(err, dir))
	}
	return s, nil
}

type importer struct {
	r     *bufio.Reader
	hash  hash.Hash // of all input so far
	how   Incoming
	room  *disk.Room
	meter meter

	dec   *zstd.Decoder
	draft *Draft

	stored, content []byte // one chunk each
}

func (in *importer) run(ctx context.Context, dir string) (_ *Snapshot, err error) {
	in.dec, err = zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true), zstd.IgnoreChecksum(true))
	if err != nil {
		return nil, err
	}
	defer in.dec.Close()
	if err := in.header(); err != nil {
		return nil, err
	}
	meta, err := in.description()
	if err != nil {
		return nil, err
	}
	if in.how.Check != nil {
		if err := in.how.Check(meta.clone()); err != nil {
			return nil, err
		}
	}
	if in.draft, err = Create(dir); err != nil {
		return nil, err
	}
	in.stored, in.content = make([]byte, chunkSize), make([]byte, chunkSize)
	defer func() {
		if err != nil {
			err = errors.Join(err, in.draft.Discard())
		}
	}()
	if err := in.files(ctx, meta.files()); err != nil {
		return nil, err
	}
	if err := in.end(); err != nil {
		return nil, err
	}
	in.meter.finish()
	in.draft.SumDisks, in.draft.want = true, meta.files()
	in.draft.Digest = meta.Digested()
	if err := in.draft.Fill(ctx); err != nil {
		return nil, err
	}
	if in.how.Label != nil {
		if meta.Extra, err = in.how.Label(meta.clone()); err != nil {
			return nil, err
		}
	}
	return in.draft.Commit(ctx, meta)
}

// header reads the header of the stream.
func (in *importer) header() error {
	var head [headerLen]byte
	n, err := io.ReadFull(in.r, head[:])
	in.hash.Write(head[:n])
	got, magic := head[:min(n, len(streamMagic))], []byte(streamMagic)
	switch {
	case !bytes.HasPrefix(magic, got) || n == 0 && err == io.EOF: // also an empty file
		return fault.New(fault.Invalid,
			"it is not an exported snapshot").WithHint("banger snapshot export writes them.")
	case err != nil:
		return cutOff(err)
	}
	rest := head[len(streamMagic):]
	if v := binary.BigEndian.Uint32(rest); v != streamVersion {
		return wrongVersion(int(v), streamVersion)
	}
	data := binary.BigEndian.Uint64(rest[8:])
	if binary.BigEndian.Uint32(rest[4:]) != 0 {
		return damaged("its header is wrong")
	}
	if data > uint64(in.how.Limits.Data) {
		return tooLarge("its content", in.how.Limits.Data)
	}
	in.meter.total = int64(data)
	return nil
}

// description reads the first block.
func (in *importer) description() (Meta, error) {
	b, err := in.block()
	if err != nil {
		return Meta{}, err
	}
	if b.file != metaOfStream || b.offset != 0 || b.content > maxMeta || b.stored > b.content {
		return Meta{}, damaged("it does not begin with its description")
	}
	data, err := in.unpack(b, make([]byte, b.stored), make([]byte, b.content))
	if err != nil {
		return Meta{}, err
	}
	meta, err := decodeMeta(data)
	if err != nil {
		return Meta{}, err
	}
	if meta.Memory != nil && meta.Memory.Size > in.how.Limits.Memory {
		return Meta{}, tooLarge("its memory", in.how.Limits.Memory)
	}
	for _, d := range meta.Disks {
		if d.Size > in.how.Limits.Disk {
			return Meta{}, tooLarge("its disk "+d.Name, in.how.Limits.Disk)
		}
	}
	return meta, nil
}

// files makes all files, and reads up to the end block.
func (in *importer) files(ctx context.Context, files []file) error {
	b, err := in.block()
	for i, f := range files {
		if err != nil {
			return err
		}
		b, err = in.file(ctx, f, uint16(i+1), b)
	}
	if err == nil && b != (block{file: endOfFiles}) {
		err = damaged("its blocks are not in order")
	}
	return err
}

// file makes one file from the blocks with its number, of which b may be the first. It returns the
// first block with another number.
func (in *importer) file(ctx context.Context, f file, number uint16, b block) (_ block, err error) {
	out, err := in.draft.newFile(f)
	if err != nil {
		return block{}, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	size := uint64(f.Size)
	if err := out.Truncate(int64(size)); err != nil {
		return block{}, err
	}
	for next := uint64(0); b.file == number; {
		if err := ctx.Err(); err != nil {
			return block{}, err
		}
		if b.offset < next || b.offset >= size || b.offset%chunkSize != 0 ||
			uint64(b.content) != min(chunkSize, size-b.offset) || b.stored > b.content {
			return block{}, damaged("a block of %s is out of place", f.name)
		}
		if in.meter.add(int(b.content)); in.meter.done > in.meter.total {
			return block{}, damaged("it holds more data than its header announces")
		}
		data, err := in.unpack(b, in.stored[:b.stored], in.content[:b.content])
		if err != nil {
			return block{}, err
		}
		if err := in.room.Add(len(data)); err != nil {
			return block{}, err
		}
		if err := writePages(out, data, int64(b.offset)); err != nil {
			return block{}, err
		}
		next = b.offset + chunkSize
		if b, err = in.block(); err != nil {
			return block{}, err
		}
	}
	return b, nil
}

// block reads a block's header.
func (in *importer) block() (block, error) {
	var head [blockLen]byte
	if err := in.read(head[:]); err != nil {
		return block{}, err
	}
	return parseBlock(head[:])
}

// unpack reads a block's content. stored and content are buffers of the lengths in the block.
func (in *importer) unpack(b block, stored, content []byte) ([]byte, error) {
	if err := in.read(stored); err != nil {
		return nil, err
	}
	if b.stored == b.content {
		return stored, nil
	}
	out, err := in.dec.DecodeAll(stored, content[:0:len(content)])
	if err != nil {
		return nil, damaged("decompressing it: %w", err)
	}
	if len(out) != len(content) {
		return nil, damaged("a block has %d bytes instead of %d", len(out), len(content))
	}
	return out, nil
}

// end reads the rest after the end block.
func (in *importer) end() error {
	want := in.hash.Sum(nil)
	var sum [sha256.Size]byte
	if err := in.read(sum[:]); err != nil {
		return err
	}
	if !bytes.Equal(sum[:], want) {
		return damaged("the sum of it all is wrong")
	}
	if _, err := in.r.ReadByte(); err == nil {
		return damaged("there is something behind its end")
	} else if err != io.EOF {
		return cutOff(err)
	}
	return nil
}

func (in *importer) read(p []byte) error {
	if _, err := io.ReadFull(in.r, p); err != nil {
		return cutOff(err)
	}
	in.hash.Write(p)
	return nil
}

func cutOff(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return damaged("it is cut off")
	}
	return fmt.Errorf("reading: %w", err)
}

func tooLarge(what string, limit model.Bytes) error {
	return fault.New(fault.Invalid, "%s is larger than the limit of %v", what, limit)
}

// newFile makes one of the files in a description.
func (d *Draft) newFile(f file) (*os.File, error) {
	switch f.name {
	case memoryFile:
		return d.Memory()
	case deviceFile:
		out, _, err := d.directory.open(deviceFile, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
		return out, err
	}
	return d.newDisk(f.disk, unix.O_EXCL)
}

// writePages writes data to a hole, and leaves its zero pages as holes.
func writePages(f *os.File, data []byte, offset int64) error {
	for start := 0; start < len(data); {
		end := start
		for end < len(data) && !isZero(data[end:min(end+pageSize, len(data))]) {
			end = min(end+pageSize, len(data))
		}
		if end == start {
			start += pageSize
			continue
		}
		if _, err := f.WriteAt(data[start:end], offset+int64(start)); err != nil {
			return err
		}
		start = end
	}
	return nil
}
