package server

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/guest/archive"
	"banger/internal/machine"
	"banger/internal/model"
)

// packed returns a file as the agent in a guest packs it.
func packed(t *testing.T, content []byte) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "etc")
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	var stream bytes.Buffer
	if err := archive.Pack(t.Context(), &stream, file, archive.PackOptions{}); err != nil {
		t.Fatal(err)
	}
	return stream.Bytes()
}

func TestFiles(t *testing.T) {
	t.Parallel()
	w := serve(t)
	ctx := deadline(t)
	w.m.agent.files = packed(t, bytes.Repeat([]byte("0123456789abcdef"), 1<<16))
	r, err := w.client.Guests().GetFiles(ctx, "box", "/etc")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	r.Close()
	if err != nil || !bytes.Equal(got, w.m.agent.files) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}

	var stored []byte
	w.m.agent.put = func(path string, archive io.Reader) (err error) {
		stored, err = io.ReadAll(archive)
		return err
	}
	if err := w.client.Guests().PutFiles(ctx, "box", "/srv", bytes.NewReader(w.m.agent.files)); err != nil || !bytes.Equal(stored, w.m.agent.files) {
		t.Errorf("stored %d bytes, %v", len(stored), err)
	}
}

// TestHostileFiles has the guest send archives that no copy is. The client gets an error, and
// nothing that it would take for a complete archive.
func TestHostileFiles(t *testing.T) {
	t.Parallel()
	w := serve(t)
	for what, h := range map[string]*tar.Header{
		"a way out":        {Typeflag: tar.TypeReg, Name: "../etc"},
		"an absolute name": {Typeflag: tar.TypeReg, Name: "/etc"},
		"a device":         {Typeflag: tar.TypeBlock, Name: "etc", Devmajor: 8},
		"another name":     {Typeflag: tar.TypeReg, Name: ".bashrc"},
		"holes":            {Typeflag: tar.TypeGNUSparse, Name: "etc"},
	} {
		var stream bytes.Buffer
		tw := tar.NewWriter(&stream)
		kind := h.Typeflag
		if kind == tar.TypeGNUSparse { // package tar does not write it
			h.Typeflag, h.Format = tar.TypeReg, tar.FormatGNU
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if kind == tar.TypeGNUSparse {
			raw := stream.Bytes()
			raw[156] = kind
			sum := -int64(tar.TypeReg) + int64(kind)
			old, _ := strconv.ParseInt(strings.Trim(string(raw[148:156]), " \x00"), 8, 64)
			copy(raw[148:], fmt.Sprintf("%06o\x00 ", old+sum))
		}
		if err := tw.Close(); err != nil {
			t.Fatal(err)
		}
		w.m.agent.files = stream.Bytes()
		r, err := w.client.Guests().GetFiles(deadline(t), "box", "/etc")
		var got []byte
		if err == nil {
			got, err = io.ReadAll(r)
			r.Close()
		}
		if fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: the copy ends with %v of kind %q, want invalid", what, err, fault.KindOf(err))
		}
		if len(got) != 0 {
			t.Errorf("%s: the client gets %d bytes", what, len(got))
		}
	}
}

// dying is an agent whose machine ends while files are copied.
type dying struct {
	machine.Agent
	begun  chan struct{}
	vanish chan struct{}
}

func (d dying) GetFiles(context.Context, string) (io.ReadCloser, error) { return io.NopCloser(d), nil }

func (d dying) Read([]byte) (int, error) {
	close(d.begun)
	<-d.vanish
	return 0, io.ErrUnexpectedEOF
}

// TestVMEndsUnderCopy kills the VM of a copy. The client hears that, and nothing of streams.
func TestVMEndsUnderCopy(t *testing.T) {
	t.Parallel()
	w := serve(t)
	d := dying{begun: make(chan struct{}), vanish: make(chan struct{})}
	w.m.other = d
	ended := make(chan error, 1)
	go func() {
		r, err := w.client.Guests().GetFiles(deadline(t), "box", "/etc")
		if err == nil {
			_, err = io.ReadAll(r)
			r.Close()
		}
		ended <- err
	}()
	await(t, "the copy", d.begun)
	if _, err := w.client.VMs().Kill(deadline(t), "box", api.VMKill{}); err != nil {
		t.Fatal(err)
	}
	close(d.vanish)
	w.Sessions.RecordsChanged(context.Background(), []model.VM{{ID: testID, Spec: model.Spec{Name: "box"}, State: model.Stopped}})
	if err := await(t, "the end of the copy", ended); err == nil || err.Error() != "VM box was killed meanwhile" {
		t.Errorf("the copy ends with %v, want that the VM was killed", err)
	}
}

// endless is an upload without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestUploadRefused(t *testing.T) {
	t.Parallel()
	w := serve(t)
	w.m.agent.put = func(string, io.Reader) error { return fault.New(fault.Denied, "read-only file system") }
	// The body is not read before the guest agrees, so that a refusal arrives however long the
	// upload is.
	err := w.client.Guests().PutFiles(deadline(t), "box", "/srv", io.LimitReader(endless{}, 64<<20))
	if fault.KindOf(err) != fault.Denied {
		t.Errorf("got %v", err)
	}
	w.m.agent.put = func(_ string, r io.Reader) error {
		io.CopyN(io.Discard, r, 1<<20)
		return fault.New(fault.Unavailable, "no space left on device")
	}
	err = w.client.Guests().PutFiles(deadline(t), "box", "/srv", io.LimitReader(endless{}, 64<<20))
	if fault.KindOf(err) != fault.Unavailable {
		t.Errorf("halfway: got %v", err)
	}
}

func TestDownloadCutOff(t *testing.T) {
	t.Parallel()
	w := serve(t, func(cfg *Config) { cfg.Manager = withAgent{cfg.Manager.(*manager), broken{}} })
	r, err := w.client.Guests().GetFiles(deadline(t), "box", "/etc")
	if err == nil {
		_, err = io.ReadAll(r)
		r.Close()
	}
	if err == nil {
		t.Error("half a download was taken for all of it")
	}
}

func writeLog(t *testing.T, w *world, text string) string {
	t.Helper()
	file := w.Layout.VM(testID).ConsoleLog()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func readLog(t *testing.T, w *world, opts api.VMLogs) string {
	t.Helper()
	r, err := w.client.VMs().Logs(deadline(t), "box", opts)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func TestLogs(t *testing.T) {
	t.Parallel()
	w := serve(t)
	if got := readLog(t, w, api.VMLogs{}); got != "" {
		t.Errorf("a log that is not there holds %q", got)
	}
	file := writeLog(t, w, "one\ntwo\nthree\n")
	if got := readLog(t, w, api.VMLogs{Source: api.LogConsole}); got != "one\ntwo\nthree\n" {
		t.Errorf("all: %q", got)
	}
	if got := readLog(t, w, api.VMLogs{Tail: 2}); got != "two\nthree\n" {
		t.Errorf("tail: %q", got)
	}
	if got := readLog(t, w, api.VMLogs{Source: api.LogVMM}); got != "" {
		t.Errorf("vmm: %q", got)
	}

	r, err := w.client.VMs().Logs(deadline(t), "box", api.VMLogs{Follow: true, Tail: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	expect := func(want string) {
		t.Helper()
		buf := make([]byte, len(want))
		if _, err := io.ReadFull(r, buf); err != nil || string(buf) != want {
			t.Fatalf("followed %q, %v; want %q", buf, err, want)
		}
	}
	expect("three\n")
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("four\n"); err != nil {
		t.Fatal(err)
	}
	expect("four\n")
	// If the VM stops or is deleted, its last output is sent and following ends.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("five\n"); err != nil {
		t.Fatal(err)
	}
	w.Sessions.RecordsChanged(context.Background(), []model.VM{{ID: testID, State: model.Stopped}})
	if rest, err := io.ReadAll(r); err != nil || string(rest) != "five\n" {
		t.Errorf("at the end: %q, %v", rest, err)
	}

	writeLog(t, w, "of a stopped VM\n")
	w.m.put(model.VM{ID: testID, Spec: model.Spec{Name: "box"}, State: model.Stopped})
	if got := readLog(t, w, api.VMLogs{Follow: true}); got != "of a stopped VM\n" {
		t.Errorf("followed: %q", got)
	}
}

func TestLastLines(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		n    int
		want string
	}{
		{"", 3, ""}, {"a", 1, "a"}, {"a\n", 1, "a\n"}, {"a\nb", 1, "b"}, {"a\nb\n", 1, "b\n"}, {"a\nb\n", 2, "a\nb\n"},
		{"a\nb\n", 9, "a\nb\n"}, {"a\n\n", 1, "\n"}, {"\n\n\n", 2, "\n\n"},
	} {
		if got := string(lastLines([]byte(c.text), c.n)); got != c.want {
			t.Errorf("last %d lines of %q: %q, want %q", c.n, c.text, got, c.want)
		}
	}
}

func TestTailer(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	tail := newTailer(&out, 1, 6)
	for _, part := range []string{"a\nb", "\nc", "\n", "d\n"} {
		if _, err := tail.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tail.release(); err != nil || out.String() != "c\nd\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
}
