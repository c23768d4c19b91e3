package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/archive"
)

// disguised lists archives that Unpack can make, but whose tar would do harm elsewhere or lie.
var disguised = []struct {
	name    string
	entries []header
}{
	{"a name twice", []header{{directory, "t/", "", ""}, {symlink, "t/a", "/etc", ""}, {file, "t/a", "", "x"}}},
	{"a directory twice", []header{{directory, "t/", "", ""}, {directory, "t/a/", "", ""}, {file, "t/b", "", ""}, {directory, "t/a/", "", ""}}},
	{"out of order", []header{{directory, "t/", "", ""}, {file, "t/b", "", ""}, {file, "t/a", "", ""}}},
	{"after its directory", []header{{directory, "t/", "", ""}, {directory, "t/a/", "", ""}, {file, "t/b", "", ""}, {file, "t/a/x", "", ""}}},
}

// TestCleanHostile: what Unpack refuses for its form, no tar program gets either.
func TestCleanHostile(t *testing.T) {
	for _, tt := range append(hostile, disguised...) {
		if strings.HasSuffix(tt.name, "that was there") { // only the destination makes it hostile
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			data := stream(t, tt.entries...)
			for what, pass := range cleaners {
				var out bytes.Buffer
				if err := pass(&out, data, archive.CleanOptions{}); fault.KindOf(err) != fault.Invalid {
					t.Errorf("%s passes it on: %v", what, err)
				}
				if bytes.Contains(out.Bytes(), []byte("BANGER.end")) {
					t.Errorf("%s says that it is complete", what)
				}
			}
		})
	}
}

var cleaners = map[string]func(io.Writer, []byte, archive.CleanOptions) error{
	"Clean": func(w io.Writer, data []byte, opts archive.CleanOptions) error {
		return archive.Clean(context.Background(), w, bytes.NewReader(data), opts)
	},
	"Export": func(w io.Writer, data []byte, opts archive.CleanOptions) error {
		return archive.Export(context.Background(), w, bytes.NewReader(data), opts)
	},
}

// TestCleanHeaders: of a header only what Pack writes is left.
func TestCleanHeaders(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	w.WriteHeader(&tar.Header{Typeflag: directory, Name: "t/", Mode: 0o7777, Format: tar.FormatPAX})
	w.WriteHeader(&tar.Header{
		Typeflag: file, Name: "t/su", Mode: 0o6777, Uid: 7, Gid: 8, Uname: "root", Gname: "root", Format: tar.FormatPAX, Size: 1,
		PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02", "comment": "x", "LIBARCHIVE.xattr.a": "x"},
	})
	w.Write([]byte("x"))
	w.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, Format: tar.FormatPAX, PAXRecords: map[string]string{"path": "/etc/passwd", "comment": "x"}})
	w.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, Format: tar.FormatPAX, PAXRecords: map[string]string{"BANGER.skipped": "t/\x1b[8m\twhy\x07", "path": "/x"}})
	w.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, Format: tar.FormatPAX, PAXRecords: map[string]string{"BANGER.end": "complete", "path": "/x"}})
	w.Close()
	for what, pass := range cleaners {
		var out bytes.Buffer
		notes := ""
		err := pass(&out, b.Bytes(), archive.CleanOptions{Umask: 0o022, Note: func(name, why string) { notes += name + "|" + why }})
		if err != nil {
			t.Fatal(err)
		}
		if notes != "t/|why" {
			t.Errorf("%s notes %q", what, notes)
		}
		got := ""
		for tr := tar.NewReader(&out); ; {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got += fmt.Sprintf("%c %s %o %d:%d %s%s %v\n", h.Typeflag, h.Name, h.Mode, h.Uid, h.Gid, h.Uname, h.Gname, h.PAXRecords)
		}
		want := "5 t/ 755 0:0  map[]\n0 t/su 755 7:8  map[]\n"
		if what == "Clean" {
			want += "g GlobalHead.0.0 0 0:0  map[BANGER.skipped:t/\tthe guest reports: why]\ng GlobalHead.0.0 0 0:0  map[BANGER.end:complete]\n"
		}
		if got != want {
			t.Errorf("%s writes\n%swant\n%s", what, got, want)
		}
	}
}

// TestCleanSparse: the forms of GNU tar for files with holes are refused. Each is a few bytes that
// stand for a TiB.
func TestCleanSparse(t *testing.T) {
	for name, records := range map[string]map[string]string{
		"0.0": {"GNU.sparse.size": "1099511627776", "GNU.sparse.numblocks": "1", "GNU.sparse.offset": "1099511627775", "GNU.sparse.numbytes": "1"},
		"0.1": {"GNU.sparse.size": "1099511627776", "GNU.sparse.numblocks": "1", "GNU.sparse.map": "1099511627775,1"},
		"1.0": {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "f", "GNU.sparse.realsize": "1099511627776"},
	} {
		data := paxEntry("f", records, "1\n1099511627775\n1\n"+strings.Repeat("\x00", 512-18)+"x")
		for what, pass := range cleaners {
			n := &counting{}
			if err := pass(n, data, archive.CleanOptions{}); fault.KindOf(err) != fault.Invalid {
				t.Errorf("%s takes the form %s: %v", what, name, err)
			}
			if n.n > 1<<20 {
				t.Errorf("%s makes %d bytes of %d", what, n.n, len(data))
			}
		}
		if err := archive.Unpack(context.Background(), bytes.NewReader(data), t.TempDir(), archive.UnpackOptions{}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("Unpack takes the form %s: %v", name, err)
		}
	}
}

type counting struct{ n int }

func (c *counting) Write(p []byte) (int, error) { c.n += len(p); return len(p), nil }

// paxEntry returns a stream of one file with PAX records that package tar does not write.
func paxEntry(name string, records map[string]string, data string) []byte {
	var b bytes.Buffer
	body := ""
	for k, v := range records {
		record := " " + k + "=" + v + "\n"
		n := len(record)
		for n != len(record)+len(fmt.Sprint(n)) {
			n = len(record) + len(fmt.Sprint(n))
		}
		body += fmt.Sprint(n) + record
	}
	w := tar.NewWriter(&b)
	w.WriteHeader(&tar.Header{Typeflag: 'x', Name: "pax", Size: int64(len(body)), Format: tar.FormatUSTAR})
	if b.Len() == 0 { // package tar refuses the type: write it as a file and change that
		w.WriteHeader(&tar.Header{Typeflag: file, Name: "pax", Size: int64(len(body)), Format: tar.FormatUSTAR})
		retype(b.Bytes(), 'x')
	}
	io.WriteString(w, body)
	w.WriteHeader(&tar.Header{Typeflag: file, Name: name, Size: int64(len(data)), Mode: 0o644, Format: tar.FormatUSTAR})
	io.WriteString(w, data)
	w.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, Format: tar.FormatPAX, PAXRecords: map[string]string{"BANGER.end": "complete"}})
	w.Close()
	return b.Bytes()
}

// retype changes the type of a header and its checksum.
func retype(raw []byte, kind byte) {
	raw[156] = kind
	copy(raw[148:156], "        ")
	sum := 0
	for _, c := range raw[:512] {
		sum += int(c)
	}
	copy(raw[148:], fmt.Sprintf("%06o\x00 ", sum))
}

// TestCleanSource: the guest sends another tree than the one that was asked for.
func TestCleanSource(t *testing.T) {
	data := stream(t, header{file, ".bashrc", "", "x"})
	for source, ok := range map[string]bool{"/out/result": false, "/out/.": false, "/root/.bashrc": true} {
		for what, pass := range cleaners {
			if err := pass(io.Discard, data, archive.CleanOptions{Source: source}); (err == nil) != ok {
				t.Errorf("%s of %s: %v, want it passed on: %v", what, source, err, ok)
			}
		}
	}
}

// TestCleanKeeps: a stream of Pack's passes unchanged, but for special bits.
func TestCleanKeeps(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	sample(t, src)
	for _, source := range []string{src, src + "/."} {
		var packed, passed bytes.Buffer
		if err := archive.Pack(context.Background(), &packed, source, archive.PackOptions{Owner: true}); err != nil {
			t.Fatal(err)
		}
		if err := archive.Clean(context.Background(), &passed, bytes.NewReader(packed.Bytes()), archive.CleanOptions{Source: source}); err != nil {
			t.Fatal(err)
		}
		a, b := t.TempDir(), t.TempDir()
		for dst, data := range map[string]*bytes.Buffer{a: &packed, b: &passed} {
			if err := archive.Unpack(context.Background(), data, dst, archive.UnpackOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		name, _ := archive.Base(source)
		for _, dst := range []string{a, b} { // with "/.", the top is the destination's
			if err := os.Chtimes(dst, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
				t.Fatal(err)
			}
		}
		if got, want := describe(t, filepath.Join(b, name)), describe(t, filepath.Join(a, name)); got != want {
			t.Errorf("the copy of a cleaned stream is\n%swant\n%s", got, want)
		}
	}
}

// TestCleanPassesErrors: why the guest ended early comes through, as clean text that is marked.
func TestCleanPassesErrors(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	w.WriteHeader(&tar.Header{Typeflag: directory, Name: "t/", Mode: 0o755, Format: tar.FormatPAX})
	w.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, Format: tar.FormatPAX, PAXRecords: map[string]string{"BANGER.error": "disk\x1b[8m", "BANGER.kind": "canceled"}})
	w.Close()
	var out bytes.Buffer
	if err := archive.Clean(context.Background(), &out, &b, archive.CleanOptions{}); err != nil {
		t.Fatal(err)
	}
	err := archive.Unpack(context.Background(), &out, t.TempDir(), archive.UnpackOptions{})
	if fault.KindOf(err) != fault.Unavailable || err.Error() != "the guest reports: disk" {
		t.Errorf("the other end's error becomes %v of kind %s", err, fault.KindOf(err))
	}
}

// FuzzClean: what passes can be unpacked by a simple program that trusts it.
func FuzzClean(f *testing.F) {
	for _, tt := range append(hostile, disguised...) {
		f.Add(stream(f, tt.entries...))
	}
	src := filepath.Join(f.TempDir(), "src")
	sample(f, src)
	os.Remove(filepath.Join(src, "big")) // the fuzzer crawls with large seeds
	var whole bytes.Buffer
	archive.Pack(context.Background(), &whole, src, archive.PackOptions{Owner: true})
	f.Add(whole.Bytes())
	f.Add(paxEntry("f", map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "99999999"}, "x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var out bytes.Buffer
		limits := archive.Limits{MaxEntries: 200, MaxBytes: 1 << 20}
		if archive.Export(context.Background(), &out, bytes.NewReader(data), archive.CleanOptions{Limits: limits}) != nil {
			return
		}
		kinds := map[string]byte{}
		for tr := tar.NewReader(&out); ; {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				t.Fatalf("the result is no tar: %v", err)
			}
			name := strings.TrimSuffix(h.Name, "/")
			above, _, nested := cutLast(name)
			switch {
			case kinds[name] != 0:
				t.Fatalf("%q comes twice", name)
			case nested && kinds[above] != directory, !nested && len(kinds) > 0:
				t.Fatalf("%q is not in a directory", name)
			case strings.HasPrefix(name, "/") || strings.Contains("/"+name+"/", "/../"):
				t.Fatalf("the name %q", name)
			case h.Mode&^0o777 != 0:
				t.Fatalf("%q has mode %o", name, h.Mode)
			case h.Typeflag == link && kinds[h.Linkname] != file:
				t.Fatalf("%q is a hard link to %q", name, h.Linkname)
			case h.Typeflag != file && h.Typeflag != directory && h.Typeflag != symlink && h.Typeflag != link:
				t.Fatalf("%q has type %c", name, h.Typeflag)
			}
			kinds[name] = h.Typeflag
		}
	})
}

func cutLast(name string) (above, last string, ok bool) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return "", name, false
	}
	return name[:i], name[i+1:], true
}
