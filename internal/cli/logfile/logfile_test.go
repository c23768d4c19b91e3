package logfile

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTailAndFollow(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log")
	long := strings.Repeat("x", 100_000) + "\n"
	for _, c := range []struct {
		text  string
		lines int
		want  string
	}{
		{"a\nb\nc\n", 2, "b\nc\n"}, {"a\nb\nc", 2, "b\nc"}, {"a\nb\n", 5, "a\nb\n"}, {"", 1, ""}, {"a\nb\n", 0, "a\nb\n"}, {"\n\n\n", 1, "\n"},
		{"first\n" + long + "last\n", 2, long + "last\n"}, {long + long, 1, long},
	} {
		if err := os.WriteFile(name, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := SeekTail(f, c.lines); err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(f)
		f.Close()
		if string(got) != c.want {
			t.Errorf("the last %d lines of %.20q are %.20q, want %.20q", c.lines, c.text, got, c.want)
		}
	}

	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := Follow(ctx, name, f).(*follower)
	buf := make([]byte, 1<<20)
	read := func(want string) {
		t.Helper()
		n, err := r.Read(buf)
		if string(buf[:n]) != want || err != nil {
			t.Errorf("the follower reads %.20q, %v, want %.20q", buf[:n], err, want)
		}
	}
	read(long + long)
	os.WriteFile(name, []byte("short\n"), 0o600) // truncated in place
	read("short\n")
	os.WriteFile(name+".new", []byte("replaced\n"), 0o600)
	os.Rename(name+".new", name)
	read("replaced\n")
	cancel()
	if _, err := r.Read(buf); !errors.Is(err, io.EOF) {
		t.Errorf("a read after the end of the context returns %v, want EOF", err)
	}
	r.f.Close()
}
