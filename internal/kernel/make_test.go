package kernel

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"banger/internal/testkit"
)

const testVersion = "6.1.0-99-test"

// fakeKernel describes an ELF file that banger accepts as a kernel.
type fakeKernel struct {
	version string
	noPVH   bool
	config  string // embedded, as with CONFIG_IKCONFIG
}

// makeELF returns an ELF file with content in one section or segment.
func makeELF(kind elf.Type, section string, note, content []byte) []byte {
	const headerSize, progSize, sectionSize = 64, 56, 64
	strtab := []byte("\x00.shstrtab\x00" + section + "\x00")
	at := uint64(headerSize + progSize)
	offNote, offContent := at, at+uint64(len(note))
	offStr := offContent + uint64(len(content))
	offSections := offStr + uint64(len(strtab))
	h := elf.Header64{Type: uint16(kind), Machine: uint16(elf.EM_X86_64), Version: 1, Phoff: headerSize, Shoff: offSections,
		Ehsize: headerSize, Phentsize: progSize, Phnum: 1, Shentsize: sectionSize, Shnum: 3, Shstrndx: 1}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	var b bytes.Buffer
	put := func(v any) { binary.Write(&b, binary.LittleEndian, v) }
	put(h)
	put(elf.Prog64{Type: uint32(elf.PT_NOTE), Off: offNote, Filesz: uint64(len(note)), Memsz: uint64(len(note))})
	b.Write(note)
	b.Write(content)
	b.Write(strtab)
	put(elf.Section64{})
	put(elf.Section64{Name: 1, Type: uint32(elf.SHT_STRTAB), Off: offStr, Size: uint64(len(strtab))})
	put(elf.Section64{Name: 11, Type: uint32(elf.SHT_PROGBITS), Off: offContent, Size: uint64(len(content))})
	return b.Bytes()
}

// compressedModule returns a module whose .modinfo section claims to be compressed.
func compressedModule() []byte {
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, elf.Chdr64{Type: uint32(elf.COMPRESS_ZLIB), Size: 8, Addralign: 1})
	module := makeELF(elf.ET_REL, ".modinfo", nil, append(b.Bytes(), "depends="...))
	flags := module[len(module)-64+8:] // of the last section
	binary.LittleEndian.PutUint64(flags, uint64(elf.SHF_COMPRESSED))
	return module
}

func makeNote(name string, kind uint32, desc []byte) []byte {
	padded := make([]byte, align4(uint32(len(name)+1)))
	copy(padded, name)
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, []uint32{uint32(len(name) + 1), uint32(len(desc)), kind})
	b.Write(padded)
	b.Write(desc)
	b.Write(make([]byte, align4(uint32(len(desc)))-uint64(len(desc))))
	return b.Bytes()
}

func (k fakeKernel) vmlinux() []byte {
	note := makeNote("GNU", 3, []byte("some build id"))
	if !k.noPVH {
		note = append(note, makeNote("Xen", notePVH, make([]byte, 4))...)
	}
	text := []byte("%s version %s\x00Linux version %s\x00Linux version " + k.version + " (somebody@somewhere) #1\x00")
	if k.config != "" {
		text = append(append(append(text, "IKCFG_ST"...), gzipped([]byte(k.config))...), "IKCFG_ED"...)
	}
	// e8 is a call, for xz's x86 filter.
	text = append(text, bytes.Repeat([]byte("kernel text \xe8\x00\x01\x02\x03 "), 4096)...)
	return makeELF(elf.ET_EXEC, ".text", note, text)
}

// makeBzImage wraps a compressed payload as arch/x86/boot does.
func makeBzImage(version string, payload []byte) []byte {
	const sects, textAt = 3, 0x300
	b := make([]byte, (sects+1)*sectorSize)
	le := binary.LittleEndian
	b[offSetupSects] = sects
	le.PutUint16(b[offBootFlag:], 0xaa55)
	copy(b[offMagic:], "HdrS")
	le.PutUint16(b[offProtocol:], 0x020f)
	le.PutUint16(b[offKernelVersion:], textAt-0x200)
	copy(b[textAt:], version+" (somebody@somewhere) #1 SMP\x00")
	le.PutUint32(b[offPayload:], 64)
	le.PutUint32(b[offPayloadLength:], uint32(len(payload)))
	b = append(b, make([]byte, 64)...)
	b = append(b, payload...)
	return append(b, "what follows the payload"...)
}

func gzipped(data []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(data)
	z.Close()
	return b.Bytes()
}

func zstded(data []byte) []byte {
	z, _ := zstd.NewWriter(nil)
	return z.EncodeAll(data, nil)
}

func lz4Legacied(data []byte) []byte {
	out := binary.LittleEndian.AppendUint32(nil, lz4Magic)
	for len(data) > 0 {
		n := min(len(data), lz4Block)
		block := make([]byte, lz4.CompressBlockBound(n))
		size, _ := lz4.CompressBlock(data[:n], block, nil)
		out = append(binary.LittleEndian.AppendUint32(out, uint32(size)), block[:size]...)
		data = data[n:]
	}
	return out
}

// filtered pipes data through a program.
func filtered(t *testing.T, data []byte, argv ...string) []byte {
	t.Helper()
	testkit.RequireTool(t, argv[0])
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", argv, err)
	}
	return out
}

// sized appends the uncompressed size, as the kernel's build does.
func sized(compressed, data []byte) []byte {
	return binary.LittleEndian.AppendUint32(compressed, uint32(len(data)))
}

func makeModule(version string, depends ...string) []byte {
	info := "license=GPL\x00depends=" + strings.Join(depends, ",") + "\x00intree=Y\x00vermagic=" + version + " SMP mod_unload \x00"
	return makeELF(elf.ET_REL, ".modinfo", nil, []byte(info))
}

// fakeModules are the modules, in several compressions, of a kernel with nothing built in.
func fakeModules() map[string][]byte {
	m := func(depends ...string) []byte { return makeModule(testVersion, depends...) }
	return map[string][]byte{
		"drivers/virtio/virtio.ko":             m("virtio_ring"),
		"drivers/virtio/virtio_ring.ko":        m(),
		"drivers/virtio/virtio_mmio.ko.gz":     gzipped(m("virtio", "virtio_ring")),
		"drivers/virtio/virtio_pci.ko":         m("virtio"),
		"drivers/block/virtio_blk.ko.zst":      zstded(m("virtio")),
		"drivers/char/virtio_console.ko":       m("virtio"),
		"drivers/net/virtio_net.ko":            m("virtio", "net-failover"),
		"net/core/failover.ko":                 m(),
		"drivers/net/net_failover.ko":          m("failover"),
		"fs/overlayfs/overlay.ko":              m(),
		"fs/ext4/ext4.ko":                      m("jbd2", "mbcache"),
		"fs/jbd2/jbd2.ko":                      m(),
		"fs/mbcache.ko":                        m(),
		"crypto/crc32c_generic.ko":             m(),
		"drivers/unrelated/something-else.ko":  m(),
		"drivers/unrelated/other.ko.too.large": nil,
	}
}

// writeModulesDir writes a /lib/modules/<version> directory.
func writeModulesDir(t *testing.T, modules map[string][]byte, builtin ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), testVersion)
	for name, data := range modules {
		writeFile(t, filepath.Join(dir, "kernel", name), data)
	}
	var list strings.Builder
	for _, b := range builtin {
		io.WriteString(&list, "kernel/x/"+b+".ko\n")
	}
	writeFile(t, filepath.Join(dir, "modules.builtin"), []byte(list.String()))
	if err := os.Symlink("/nowhere", filepath.Join(dir, "build")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func writeFile(t *testing.T, path string, data []byte) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// fullConfig returns a configuration with all that a guest needs. A change is "OPTION=value" or
// "-OPTION".
func fullConfig(changes ...string) string {
	set := map[string]string{}
	for _, n := range needs {
		for _, d := range n.anyOf {
			set[d.option] = "y"
		}
	}
	for _, any := range options {
		for _, o := range any {
			set[o] = "y"
		}
	}
	for _, c := range changes {
		if name, ok := strings.CutPrefix(c, "-"); ok {
			delete(set, name)
		} else {
			name, value, _ := strings.Cut(c, "=")
			set[name] = value
		}
	}
	var b strings.Builder
	b.WriteString("#\n# Automatically generated file; DO NOT EDIT.\n#\nCONFIG_CC_VERSION_TEXT=\"gcc (1) = 2\"\n# CONFIG_NUMA is not set\n")
	for name, value := range set {
		b.WriteString("CONFIG_" + name + "=" + value + "\n")
	}
	return b.String()
}
