package kernel

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"banger/internal/fault"
)

func TestExtract(t *testing.T) {
	elf := fakeKernel{version: testVersion}.vmlinux()
	big := append(bytes.Clone(elf), make([]byte, 20<<20)...) // more than two blocks of lz4
	tests := []struct {
		name, compression string
		payload           func(t *testing.T) []byte
		want              []byte
	}{
		{"gzip", "gzip", func(*testing.T) []byte { return gzipped(elf) }, elf},
		{"zstd", "zstd", func(*testing.T) []byte { return sized(zstded(elf), elf) }, elf},
		{"lz4", "lz4", func(*testing.T) []byte { return sized(lz4Legacied(elf), elf) }, elf},
		{"lz4 of several blocks", "lz4", func(*testing.T) []byte { return sized(lz4Legacied(big), big) }, big},
		{"bzip2", "bzip2", func(t *testing.T) []byte { return sized(filtered(t, elf, "bzip2", "-9"), elf) }, elf},
		{"lzma", "lzma", func(t *testing.T) []byte { return sized(filtered(t, elf, "xz", "--format=lzma"), elf) }, elf},
		{"xz as the kernel's build makes it", "xz", func(t *testing.T) []byte {
			return sized(filtered(t, elf, "xz", "--check=crc32", "--x86", "--lzma2=,dict=32MiB"), elf)
		}, elf},
		{"none", "none", func(*testing.T) []byte { return elf }, elf},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			file := makeBzImage(testVersion, test.payload(t))
			image, err := parseBzImage(bytes.NewReader(file), int64(len(file)))
			if err != nil {
				t.Fatal(err)
			}
			if image.version != testVersion {
				t.Errorf("the version is %q", image.version)
			}
			var out bytes.Buffer
			compression, err := image.extract(&out, maxVmlinux)
			if err != nil || compression != test.compression {
				t.Fatalf("the compression is %q, the error %v", compression, err)
			}
			if !bytes.Equal(out.Bytes(), test.want) {
				t.Errorf("extracted %d bytes, want %d", out.Len(), len(test.want))
			}
		})
	}
}

func TestBadBzImage(t *testing.T) {
	good := makeBzImage(testVersion, gzipped([]byte("payload")))
	change := func(at int, b string) []byte {
		c := bytes.Clone(good)
		copy(c[at:], b)
		return c
	}
	tests := []struct {
		name string
		file []byte
		want string
	}{
		{"empty", nil, "no x86 setup header"},
		{"no magic", change(offMagic, "Hdr?"), "no x86 setup header"},
		{"old protocol", change(offProtocol, "\x07\x02"), "2.07 is older"},
		{"payload past the end", change(offPayload, "\xff\xff\xff\x7f"), "is not inside the file"},
		{"length past the end", change(offPayloadLength, "\xff\xff\xff\xff"), "is not inside the file"},
		{"no length", change(offPayloadLength, "\x00\x00\x00\x00"), "is not inside the file"},
		{"unknown compression", change(4*512+64, "abc"), "which begins with 61 62 63"},
		{"broken gzip", change(4*512+64+20, "\x01\x02\x03\x04\x05\x06"), "decompressing the kernel (gzip)"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			image, err := parseBzImage(bytes.NewReader(test.file), int64(len(test.file)))
			if err == nil {
				_, err = image.extract(io.Discard, maxVmlinux)
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
			if kind := fault.KindOf(err); kind != fault.Invalid && kind != fault.Unsupported {
				t.Errorf("the error has the kind %v", kind)
			}
		})
	}
}

// TestBombs checks that a small file with a large content is cut off, and uses little memory.
func TestBombs(t *testing.T) {
	zeros := make([]byte, 1<<20)
	for name, payload := range map[string][]byte{
		"gzip": gzipped(zeros), "zstd": sized(zstded(zeros), zeros), "lz4": sized(lz4Legacied(zeros), zeros),
	} {
		file := makeBzImage(testVersion, payload)
		image, err := parseBzImage(bytes.NewReader(file), int64(len(file)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := image.extract(io.Discard, int64(len(zeros))); err != nil {
			t.Errorf("%s: exactly at the limit: %v", name, err)
		}
		if _, err := image.extract(io.Discard, int64(len(zeros)-1)); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: one byte over the limit: %v", name, err)
		}
	}
	huge := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, lz4Magic), 1<<31)
	if _, err := io.ReadAll(&lz4Legacy{src: bytes.NewReader(huge)}); err == nil {
		t.Error("an lz4 block of 2 GiB was accepted")
	}
}

func FuzzBzImage(f *testing.F) {
	elf := []byte("\x7fELF and so on")
	for _, payload := range [][]byte{elf, gzipped(elf), sized(zstded(elf), elf), sized(lz4Legacied(elf), elf), []byte("\xfd7zXZ\x00aaaaaaaa"), []byte("\x5d\x00\x00\x80\x00aaaaaaaa"), []byte("BZh91AY&SY")} {
		f.Add(makeBzImage(testVersion, payload))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		image, err := parseBzImage(bytes.NewReader(file), int64(len(file)))
		if err != nil {
			return
		}
		if image.version != "" && !isVersion(image.version) {
			t.Errorf("the version is %q", image.version)
		}
		image.extract(io.Discard, 1<<20)
	})
}
