package initramfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// member is an entry as a reader of the format finds it.
type member struct {
	Name         string
	Mode         uint32
	Ino          uint32
	Major, Minor uint32
	Data         string
}

// readArchives reads concatenated newc archives by the kernel's rules (buffer-format.rst): it skips
// zero bytes between archives, and headers begin at multiples of 4.
func readArchives(data []byte) (members []member, err error) {
	for at := 0; ; {
		for at < len(data) && data[at] == 0 {
			at++
		}
		if at == len(data) {
			return members, nil
		}
		if at%4 != 0 || len(data)-at < headerSize || string(data[at:at+6]) != "070701" {
			return nil, fmt.Errorf("no header at byte %d", at)
		}
		var f [13]uint32
		for i := range f {
			n, err := strconv.ParseUint(string(data[at+6+8*i:at+14+8*i]), 16, 32)
			if err != nil {
				return nil, err
			}
			f[i] = uint32(n)
		}
		nameEnd := at + headerSize + int(f[11])
		start := (nameEnd + 3) &^ 3
		end := start + int(f[6])
		if end > len(data) || data[nameEnd-1] != 0 {
			return nil, errors.New("cut off")
		}
		name := string(data[at+headerSize : nameEnd-1])
		at = (end + 3) &^ 3
		if name != trailer {
			members = append(members, member{Name: name, Ino: f[0], Mode: f[1], Major: f[9], Minor: f[10], Data: string(data[start:end])})
		}
	}
}

func TestWriter(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	w.Dir("dev", 0o755)
	w.CharDevice("dev/console", 0o600, 5, 1)
	w.File("init", 0o755, 5, strings.NewReader("hello, and what is too much"))
	w.File("empty", 0o644, 0, nil)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := readArchives(b.Bytes())
	want := []member{
		{Name: "dev", Ino: 1, Mode: 0o40755}, {Name: "dev/console", Ino: 2, Mode: 0o20600, Major: 5, Minor: 1},
		{Name: "init", Ino: 3, Mode: 0o100755, Data: "hello"}, {Name: "empty", Ino: 4, Mode: 0o100644},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if b.Len()%blockSize != 0 {
		t.Errorf("%d bytes", b.Len())
	}
}

func TestWriterRefuses(t *testing.T) {
	for _, name := range []string{"", "/abs", "../up", "..", "a/../../b", "a/", "./a", "a//b", "nul\x00", trailer, strings.Repeat("x", maxName)} {
		w := NewWriter(io.Discard)
		if err := w.Dir(name, 0o755); err == nil {
			t.Errorf("%q was taken", name)
		}
		if err := w.Close(); err == nil {
			t.Errorf("%q was forgotten at Close", name)
		}
	}
	if err := NewWriter(io.Discard).File("big", 0o644, 1<<32, nil); err == nil {
		t.Error("4 GiB were taken")
	}
	if err := NewWriter(io.Discard).File("short", 0o644, 10, strings.NewReader("123")); !errors.Is(err, io.EOF) {
		t.Errorf("a short file: %v", err)
	}
	full := errors.New("disk full")
	w := NewWriter(failing{full})
	w.Dir("a", 0o755)
	if err := w.Close(); !errors.Is(err, full) {
		t.Errorf("a failing writer: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func FuzzRoundTrip(f *testing.F) {
	f.Add("init", "modules/000-virtio.ko", []byte("data"), uint32(0o755))
	f.Add("a", "a/b", []byte{0, 0, 0}, uint32(0o7777))
	f.Add("TRAILER!!!", "..", []byte{}, uint32(1<<31))
	f.Fuzz(func(t *testing.T, first, second string, data []byte, perm uint32) {
		var b bytes.Buffer
		var want []member
		for i, name := range []string{first, second} {
			w := NewWriter(&b)
			if w.File(name, perm, int64(len(data)), bytes.NewReader(data)) != nil {
				return
			}
			if path.Clean(name) != name || path.IsAbs(name) {
				t.Errorf("%d: %q was taken", i, name)
			}
			want = append(want, member{Name: name, Ino: 1, Mode: typeFile | perm&0o7777, Data: string(data)})
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
		}
		got, err := readArchives(b.Bytes())
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("got %+v, %v\nwant %+v", got, err, want)
		}
	})
}
