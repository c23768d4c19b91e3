package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/testkit"
)

func exported(t testing.TB, s *Snapshot) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := Export(t.Context(), s, &out, nil); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// refused imports a bad stream, and checks that it leaves nothing.
func refused(t testing.TB, stream io.Reader, limits Limits, kind fault.Kind) error {
	t.Helper()
	parent := t.TempDir()
	_, err := Import(t.Context(), stream, filepath.Join(parent, "a"), Incoming{Limits: limits})
	if fault.KindOf(err) != kind {
		t.Errorf("got %v of kind %q, want %q", err, fault.KindOf(err), kind)
	}
	if got := entries(t, parent); len(got) != 0 {
		t.Errorf("left over: %v", got)
	}
	return err
}

func TestExportImport(t *testing.T) {
	parent := t.TempDir()
	from := commit(t, filepath.Join(parent, "a"))
	var out bytes.Buffer
	for what, run := range map[string]func(Progress) error{
		"export": func(p Progress) error { return Export(t.Context(), from, &out, p) },
		"import": func(p Progress) error {
			_, err := Import(t.Context(), iotest.OneByteReader(bytes.NewReader(exported(t, from))), filepath.Join(parent, "b"), Incoming{Progress: p})
			return err
		},
	} {
		var last, all int64
		err := run(func(done, total int64) {
			if done < last || done > total {
				t.Errorf("%s: progress %d of %d after %d is not between them", what, done, total, last)
			}
			last, all = done, total
		})
		if err != nil || last != all || all < 300_000 || all > 4<<20 {
			t.Errorf("%s: %v, and the last progress is %d of %d", what, err, last, all)
		}
	}
	if out.Len() > 1<<20 {
		t.Errorf("the export has %d bytes, want fewer: zeros are left out", out.Len())
	}
	to, err := Open(t.Context(), filepath.Join(parent, "b"))
	if err != nil {
		t.Fatal(err)
	}
	sameContent(t, to)
	if err := to.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	a, b := from.Meta(), to.Meta()
	for i, f := range a.files() {
		if g := b.files()[i]; f.Sum != g.Sum || f.Size != g.Size || f.name != g.name {
			t.Errorf("after export and import file %+v is %+v", f, g)
		}
	}
	if a.Fingerprint != b.Fingerprint || a.Spec.ImageID != b.Spec.ImageID || !a.Created.Equal(b.Created) || !bytes.Equal(a.Extra, b.Extra) || a.Kind != b.Kind {
		t.Errorf("after export and import %+v is %+v", a, b)
	}
	ua, err := from.Usage()
	ub, err2 := to.Usage()
	if err := errors.Join(err, err2); err != nil || ub.Allocated > ua.Allocated+64*model.KiB {
		t.Errorf("after export and import the usage %+v is %+v, %v", ua, ub, err)
	}
	if _, err := Import(t.Context(), bytes.NewReader(out.Bytes()), to.Dir(), Incoming{}); fault.KindOf(err) != fault.Exists {
		t.Errorf("importing over a snapshot: got %v, want fault.Exists", err)
	}
	if got := entries(t, parent); len(got) != 2 {
		t.Errorf("left over: %v", got)
	}
}

// small commits a snapshot with a short stream: two chunks of memory, a device, a disk of zeros.
func small(t testing.TB, dir string) *Snapshot {
	t.Helper()
	d, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Discard() })
	memory, err := d.Memory()
	if err != nil {
		t.Fatal(err)
	}
	writeSparse(t, memory, 4*chunkSize+100, map[int64][]byte{chunkSize + 5: []byte("some"), 4*chunkSize + 50: []byte("more")})
	src := filepath.Join(t.TempDir(), "src")
	if err := errors.Join(os.WriteFile(d.Device(), []byte("device"), 0o600), os.WriteFile(src, make([]byte, 9000), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := d.CloneDisk(t.Context(), "work", src); err != nil {
		t.Fatal(err)
	}
	s, err := d.Commit(t.Context(), testMeta)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestImportWithoutDiskSums(t *testing.T) {
	dir := t.TempDir()
	from := small(t, filepath.Join(dir, "a"))
	to, err := Import(t.Context(), bytes.NewReader(exported(t, from)), filepath.Join(dir, "b"), Incoming{})
	if err != nil {
		t.Fatal(err)
	}
	if from.Meta().Disks[0].Sum != "" || to.Meta().Disks[0].Sum == "" || to.Meta().Disks[0].Size != 9000 {
		t.Errorf("after export and import disk %+v is %+v", from.Meta().Disks[0], to.Meta().Disks[0])
	}
}

// TestImportCutOff imports every prefix of a stream.
func TestImportCutOff(t *testing.T) {
	stream := exported(t, small(t, filepath.Join(t.TempDir(), "a")))
	parent := t.TempDir()
	for n := range stream {
		_, err := Import(t.Context(), bytes.NewReader(stream[:n]), filepath.Join(parent, "a"), Incoming{})
		if fault.KindOf(err) != fault.Invalid {
			t.Fatalf("a stream cut off after %d of %d bytes: got %v", n, len(stream), err)
		}
	}
	if got := entries(t, parent); len(got) != 0 {
		t.Errorf("left over: %v", got)
	}
}

// TestImportEveryByte flips a bit of each byte of a stream.
func TestImportEveryByte(t *testing.T) {
	stream := exported(t, small(t, filepath.Join(t.TempDir(), "a")))
	parent := t.TempDir()
	for i := range stream {
		bad := bytes.Clone(stream)
		bad[i] ^= 1 << (i % 8)
		_, err := Import(t.Context(), bytes.NewReader(bad), filepath.Join(parent, "a"), Incoming{})
		if fault.KindOf(err) != fault.Invalid {
			t.Fatalf("a bit of byte %d of %d flipped: %v", i, len(stream), err)
		}
	}
	if got := entries(t, parent); len(got) != 0 {
		t.Errorf("left over: %v", got)
	}
}

// script is a stream that can be written with any mistake. Its sum is right.
type script struct {
	magic   string
	version uint32
	zero    uint32
	data    uint64
	meta    []byte
	blocks  []scriptBlock
	after   []byte // after the sum
}

type scriptBlock struct {
	block
	data []byte
}

func (s script) bytes() []byte {
	out := binary.BigEndian.AppendUint32([]byte(s.magic), s.version)
	out = binary.BigEndian.AppendUint32(out, s.zero)
	out = binary.BigEndian.AppendUint64(out, s.data)
	out = append(block{content: uint32(len(s.meta)), stored: uint32(len(s.meta))}.append(out), s.meta...)
	for _, b := range s.blocks {
		out = append(b.append(out), b.data...)
	}
	sum := sha256.Sum256(out)
	return append(append(out, sum[:]...), s.after...)
}

// plain is an uncompressed block.
func plain(file uint16, offset uint64, data []byte) scriptBlock {
	return scriptBlock{block{file, uint32(len(data)), uint32(len(data)), offset}, data}
}

// packedAs is a compressed block whose header claims n bytes of content.
func packedAs(t testing.TB, file uint16, offset uint64, n int, content []byte) scriptBlock {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	data := enc.EncodeAll(content, nil)
	return scriptBlock{block{file, uint32(n), uint32(len(data)), offset}, data}
}

// goodScript is a stream that Import accepts. Its files are 1: a device, 2: a memory of two chunks
// and 100 bytes, 3: a disk of 5000 bytes.
func goodScript(t testing.TB) (script, Meta) {
	t.Helper()
	chunk := bytes.Repeat([]byte("x"), chunkSize)
	meta := testMeta
	meta.Version, meta.Kind = version, model.SnapshotFull
	device := sha256.Sum256([]byte("device"))
	var memory summer
	memory.add(0, chunk)
	memory.add(2*chunkSize, chunk[:100])
	meta.Device = &File{Size: 6, Sum: fmt.Sprintf("%x", device)}
	meta.Memory = &File{Size: 2*chunkSize + 100, Sum: memory.sum()}
	meta.Disks = []Disk{{"system", File{Size: 5000}}}
	return script{
		magic: streamMagic, version: streamVersion, data: 10 * chunkSize, meta: describe(t, meta),
		blocks: []scriptBlock{
			plain(1, 0, []byte("device")), packedAs(t, 2, 0, chunkSize, chunk), plain(2, 2*chunkSize, chunk[:100]), plain(3, 0, chunk[:5000]), {block: block{file: endOfFiles}},
		},
	}, meta
}

func describe(t testing.TB, m Meta) []byte {
	t.Helper()
	data, err := encodeMeta(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestImportRefused(t *testing.T) {
	good, _ := goodScript(t)
	if _, err := Import(t.Context(), bytes.NewReader(good.bytes()), filepath.Join(t.TempDir(), "a"), Incoming{}); err != nil {
		t.Fatalf("the good stream was rejected: %v", err)
	}
	end := good.blocks[4]
	chunk := bytes.Repeat([]byte("x"), chunkSize)
	blocks := func(b ...scriptBlock) func(*script, *Meta) { return func(s *script, _ *Meta) { s.blocks = b } }
	// set changes one block.
	set := func(i int, change func(*scriptBlock)) func(*script, *Meta) {
		return func(s *script, _ *Meta) { change(&s.blocks[i]) }
	}
	for _, tt := range []struct {
		name  string
		spoil func(*script, *Meta)
	}{
		{"another magic", func(s *script, _ *Meta) { s.magic = "banger snapshot\r" }},
		{"newer stream", func(s *script, _ *Meta) { s.version++ }},
		{"older stream", func(s *script, _ *Meta) { s.version = 0 }},
		{"no zero", func(s *script, _ *Meta) { s.zero = 1 }},
		{"more data than its header announces", func(s *script, _ *Meta) { s.data = chunkSize }},
		{"trailing byte", func(s *script, _ *Meta) { s.after = []byte{0} }},
		{"trailing stream", func(s *script, _ *Meta) { s.after = good.bytes() }},
		{"newer snapshot", func(_ *script, m *Meta) { m.Version++ }},
		{"way out", func(_ *script, m *Meta) { m.Disks[0].Name = "../x" }},
		{"no snapshot", func(s *script, m *Meta) { s.meta = []byte("{}") }},
		{"no blocks", blocks()},
		{"files are missing", blocks(end)}, // then the sums of memory and device are wrong
		{"no end", blocks(good.blocks[:4]...)},
		{"a description again", blocks(append([]scriptBlock{plain(0, 0, []byte("x"))}, good.blocks...)...)},
		{"files not in order", blocks(good.blocks[1], good.blocks[2], good.blocks[0], good.blocks[3], end)},
		{"blocks not in order", blocks(good.blocks[0], good.blocks[2], good.blocks[1], good.blocks[3], end)},
		{"a block twice", blocks(good.blocks[0], good.blocks[1], good.blocks[1], good.blocks[2], good.blocks[3], end)},
		{"a file too many", blocks(append(slices.Clone(good.blocks[:4]), plain(4, 0, []byte("x")), end)...)},
		{"an end with content", set(4, func(b *scriptBlock) { b.content = 1 })},
		{"an end with an offset", set(4, func(b *scriptBlock) { b.offset = 1 })},
		{"between chunks", set(2, func(b *scriptBlock) { b.offset = 2*chunkSize - 1 })},
		{"behind the end", set(2, func(b *scriptBlock) { b.offset = 3 * chunkSize })},
		{"far away", set(2, func(b *scriptBlock) { b.offset = 1 << 63 })},
		{"at the end of numbers", set(2, func(b *scriptBlock) { b.offset = ^uint64(0) - chunkSize + 1 })},
		{"over the end", set(2, func(b *scriptBlock) { b.scriptData(chunk[:101]) })},
		{"less than a chunk", set(1, func(b *scriptBlock) { b.scriptData(chunk[:100]) })},
		{"empty", set(2, func(b *scriptBlock) { b.scriptData(nil) })},
		{"larger than a chunk", set(1, func(b *scriptBlock) { b.scriptData(append(chunk, 'x')) })},
		{"stored is more", set(1, func(b *scriptBlock) { b.stored = chunkSize + 1 })},
		{"no Zstandard", set(1, func(b *scriptBlock) { b.data = bytes.Repeat([]byte{1}, len(b.data)) })},
		{"expands to less", set(1, func(b *scriptBlock) { *b = packedAs(t, 2, 0, chunkSize, chunk[1:]) })},
		{"expands to more", set(1, func(b *scriptBlock) { *b = packedAs(t, 2, 0, chunkSize, append(chunk, 'x')) })},
		{"a bomb", set(1, func(b *scriptBlock) { *b = packedAs(t, 2, 0, chunkSize, make([]byte, 256<<20)) })},
		{"a bomb of many", set(1, func(b *scriptBlock) {
			b.data = bytes.Repeat(bomb, chunkSize/len(bomb)-1)
			b.stored = uint32(len(b.data))
		})},
		{"other memory", set(2, func(b *scriptBlock) { b.data = bytes.Repeat([]byte("y"), 100) })},
		{"other device", set(0, func(b *scriptBlock) { b.data = []byte("devicf") })},
		{"other disk", func(_ *script, m *Meta) { m.Disks[0].Sum = m.Memory.Sum }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, meta := goodScript(t)
			before := describe(t, meta)
			tt.spoil(&s, &meta)
			if after := describe(t, meta); !bytes.Equal(before, after) {
				s.meta = after
			}
			refused(t, bytes.NewReader(s.bytes()), Limits{}, fault.Invalid)
		})
	}
}

// bomb is a frame of unknown size (RFC 8878, section 3.1.1) with one RLE block of 128 KiB.
var bomb = []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0x38, 0x03, 0, 0x10, 'x'}

// scriptData sets an uncompressed content.
func (b *scriptBlock) scriptData(data []byte) {
	b.data, b.content, b.stored = data, uint32(len(data)), uint32(len(data))
}

func TestImportLimits(t *testing.T) {
	s, _ := goodScript(t)
	for name, l := range map[string]Limits{
		"memory": {Memory: 2 * chunkSize}, "disk": {Disk: 4999}, "data": {Data: 10*chunkSize - 1},
	} {
		t.Run(name, func(t *testing.T) { refused(t, bytes.NewReader(s.bytes()), l, fault.Invalid) })
	}
	limits := Limits{Memory: 2*chunkSize + 100, Disk: 5000, Data: 10 * chunkSize}
	if _, err := Import(t.Context(), bytes.NewReader(s.bytes()), filepath.Join(t.TempDir(), "a"), Incoming{Limits: limits}); err != nil {
		t.Errorf("a snapshot exactly at the limits was rejected: %v", err)
	}
}

func TestImportBrokenReader(t *testing.T) {
	s, _ := goodScript(t)
	broken := errors.New("connection lost")
	for _, n := range []int{0, 5, 40, 400, len(s.bytes()) - 1, len(s.bytes())} {
		r := io.MultiReader(bytes.NewReader(s.bytes()[:n]), iotest.ErrReader(broken))
		if err := refused(t, r, Limits{}, fault.Internal); !errors.Is(err, broken) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
	parent := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Import(ctx, bytes.NewReader(s.bytes()), filepath.Join(parent, "a"), Incoming{}); fault.KindOf(err) != fault.Canceled {
		t.Errorf("canceled: %v", err)
	}
	if got := entries(t, parent); len(got) != 0 {
		t.Errorf("left over: %v", got)
	}
}

func TestImportFull(t *testing.T) {
	parent := t.TempDir()
	err := unix.Mount("tmpfs", parent, "tmpfs", 0, "size=512k")
	testkit.Require(t, "root", err == nil, fmt.Sprintf("mounting a tmpfs: %v", err))
	defer unix.Unmount(parent, unix.MNT_DETACH)
	stream := exported(t, commit(t, filepath.Join(t.TempDir(), "a")))
	_, err = Import(t.Context(), bytes.NewReader(stream), filepath.Join(parent, "a"), Incoming{})
	if fault.KindOf(err) != fault.Unavailable || fault.HintOf(err) == "" || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v with hint %q, want an error about a full disk", err, fault.HintOf(err))
	}
	if got := entries(t, parent); len(got) != 0 {
		t.Errorf("left over: %v", got)
	}
}

// TestExportDamaged exports files that were changed since Open. No Import accepts the result.
func TestExportDamaged(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"changed": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("X"), 1)
			return errors.Join(err, f.Close())
		},
		"shorter": func(path string) error { return os.Truncate(path, 1) },
		"gone":    os.Remove,
	} {
		for _, file := range []string{deviceFile, memoryFile, "work-2.ext4"} {
			t.Run(name+" "+file, func(t *testing.T) {
				s := commit(t, filepath.Join(t.TempDir(), "a"))
				if err := spoil(filepath.Join(s.Dir(), file)); err != nil {
					t.Fatal(err)
				}
				var out bytes.Buffer
				if err := Export(t.Context(), s, &out, nil); fault.KindOf(err) != fault.Invalid {
					t.Errorf("exporting a damaged snapshot: got %v, want fault.Invalid", err)
				}
				refused(t, &out, Limits{}, fault.Invalid)
			})
		}
	}
}

func TestExportFails(t *testing.T) {
	s := commit(t, filepath.Join(t.TempDir(), "a"))
	full := errors.New("full")
	for _, room := range []int{0, 100_000, len(exported(t, s)) - 1} {
		if err := Export(t.Context(), s, &tightWriter{room, full}, nil); !errors.Is(err, full) {
			t.Errorf("with room for %d bytes: got %v, want the writer's error", room, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Export(ctx, s, io.Discard, nil); fault.KindOf(err) != fault.Canceled {
		t.Errorf("canceled: %v", err)
	}
	if err := Remove(s.Dir()); err != nil {
		t.Fatal(err)
	}
	if err := Export(t.Context(), s, io.Discard, nil); fault.KindOf(err) != fault.NotFound {
		t.Errorf("exporting after Remove: %v", err)
	}
}

// tightWriter fails after some bytes.
type tightWriter struct {
	room int
	err  error
}

func (w *tightWriter) Write(p []byte) (int, error) {
	if w.room -= len(p); w.room < 0 {
		return 0, w.err
	}
	return len(p), nil
}

// FuzzImport writes right sums around its input, so that the code behind the sums is reached.
func FuzzImport(f *testing.F) {
	const head, metaHeadLen, metaTailLen = headerLen + blockLen, len(metaHead) + sumLen + len(metaMid), len(metaTail)
	add := func(s script) {
		b := s.bytes()
		f.Add(s.meta[metaHeadLen:len(s.meta)-metaTailLen], b[head+len(s.meta):len(b)-sha256.Size])
	}
	s, meta := goodScript(f)
	add(s)
	s.blocks[1] = scriptBlock{block{2, chunkSize, uint32(2 * len(bomb)), 0}, slices.Concat(bomb, bomb)}
	add(s)
	meta.Memory, meta.Device, meta.Kind = nil, nil, model.SnapshotDisk
	disk := script{meta: describe(f, meta), blocks: []scriptBlock{plain(1, 0, make([]byte, 5000)), {block: block{file: endOfFiles}}}}
	add(disk)
	meta.Seal, meta.Disks[0].Digest = &Seal{Statement: json.RawMessage(`{"meta":{}}`), MAC: meta.Disks[0].Sum}, meta.Disks[0].Sum
	disk.meta = describe(f, meta) // its digest is wrong
	add(disk)
	disk.blocks = disk.blocks[1:]
	add(disk)
	parent := f.TempDir()
	dir := filepath.Join(parent, "a")
	limits := Limits{Memory: 64 * model.MiB, Disk: 64 * model.MiB, Data: 16 * model.MiB}
	f.Fuzz(func(t *testing.T, inner, blocks []byte) {
		data := script{magic: streamMagic, version: streamVersion, data: uint64(limits.Data), meta: frameMeta(inner)}.bytes()
		data = append(data[:len(data)-sha256.Size], blocks...)
		sum := sha256.Sum256(data)
		s, err := Import(t.Context(), bytes.NewReader(append(data, sum[:]...)), dir, Incoming{Limits: limits})
		if err != nil && fault.KindOf(err) != fault.Invalid {
			t.Errorf("error %v of kind %q", err, fault.KindOf(err))
		}
		if err == nil {
			if _, err := Open(t.Context(), dir); err != nil {
				t.Errorf("opening an imported snapshot: %v", err)
			}
			if err := errors.Join(s.Verify(t.Context()), Export(t.Context(), s, io.Discard, nil), Remove(dir)); err != nil {
				t.Error(err)
			}
		}
		if got := entries(t, parent); len(got) != 0 {
			t.Errorf("left over: %v", got)
		}
	})
}

// big commits a snapshot with a memory that compresses like a guest's: half noise, half text.
func big(b testing.TB, size int64) *Snapshot {
	b.Helper()
	d, err := Create(filepath.Join(b.TempDir(), "a"))
	if err != nil {
		b.Fatal(err)
	}
	memory, err := d.Memory()
	if err != nil {
		b.Fatal(err)
	}
	page := bytes.Repeat([]byte("a guest's memory holds much that repeats; "), 100)[:4096]
	for at := int64(0); at < size; at += 8192 {
		if _, err := memory.WriteAt(append(noise(byte(at>>13), 4096), page...), at); err != nil {
			b.Fatal(err)
		}
	}
	if err := os.WriteFile(d.Device(), []byte("device"), 0o600); err != nil {
		b.Fatal(err)
	}
	s, err := d.Commit(b.Context(), testMeta)
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func BenchmarkExport(b *testing.B) {
	const size = 128 << 20
	s := big(b, size)
	b.SetBytes(size)
	for b.Loop() {
		if err := Export(b.Context(), s, io.Discard, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkImport(b *testing.B) {
	const size = 128 << 20
	stream := exported(b, big(b, size))
	dir := filepath.Join(b.TempDir(), "b")
	b.SetBytes(size)
	for b.Loop() {
		if _, err := Import(b.Context(), bytes.NewReader(stream), dir, Incoming{}); err != nil {
			b.Fatal(err)
		}
		if err := Remove(dir); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpen measures what each fork from a template pays.
func BenchmarkOpen(b *testing.B) {
	s := big(b, 32<<20)
	for b.Loop() {
		if _, err := Open(b.Context(), s.Dir()); err != nil {
			b.Fatal(err)
		}
	}
}

// TestImportRoom: the host runs low on space during an import.
func TestImportRoom(t *testing.T) {
	stream := exported(t, big(t, int64(disk.RoomEvery)+chunkSize))
	full := fault.New(fault.Unavailable, "the host has 1G free").WithHint("banger df")
	parent := t.TempDir()
	_, err := Import(t.Context(), bytes.NewReader(stream), filepath.Join(parent, "a"), Incoming{Room: func() error { return full }})
	if !errors.Is(err, full) || fault.HintOf(err) != full.Hint {
		t.Errorf("got %v with hint %q, want %v", err, fault.HintOf(err), full)
	}
	if got := entries(t, parent); len(got) != 0 {
		t.Errorf("left over: %v", got)
	}
}
