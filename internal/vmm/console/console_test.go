package console

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func read(t *testing.T, path string) string {
	t.Helper()
	done, cancel := context.WithCancel(context.Background())
	cancel()
	var got bytes.Buffer
	if err := Follow(done, path, &got); err != nil {
		t.Fatal(err)
	}
	return got.String()
}

func TestLogKeepsTheNewest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	if got := read(t, path); got != "" {
		t.Fatalf("a log that does not exist is not empty: %q", got)
	}
	const limit = 8 << 10
	var all strings.Builder
	for run := range 3 { // each run appends to the log of the earlier runs
		l, err := Open(path, limit)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 1000 {
			line := fmt.Sprintf("run %d line %d\n", run, i)
			all.WriteString(line)
			if _, err := l.Write([]byte(line)); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	got := read(t, path)
	if !strings.HasSuffix(all.String(), got) || len(got) <= limit/2 || len(got) > limit {
		t.Errorf("the log does not hold the newest bytes within its bound: %d of %d, at most %d", len(got), all.Len(), limit)
	}
	if err := Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := Remove(path); err != nil {
		t.Errorf("removing a log that does not exist is an error: %v", err)
	}
}

func TestWriteLargerThanTheLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	l, err := Open(path, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	data := bytes.Repeat([]byte("0123456789abcdef"), 10_000)
	if n, err := l.Write(data); n != len(data) || err != nil {
		t.Fatalf("a large write is not complete: %d of %d bytes, %v", n, len(data), err)
	}
	if got := read(t, path); !bytes.HasSuffix(data, []byte(got)) || len(got) > minMax || len(got) == 0 {
		t.Errorf("a small bound is not raised to the least one: the log holds %d bytes", len(got))
	}
}

func TestFollowSeesEveryByte(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	l, err := Open(path, minMax)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var want, got bytes.Buffer
	r := follower{path: path}
	defer r.close()
	for i := range 5000 {
		line := fmt.Sprintf("line %d\n", i)
		want.WriteString(line)
		if _, err := l.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
		if i%500 == 0 { // about 4 KiB: the log is renamed at most once between two looks
			if err := r.catchUp(&got); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := r.catchUp(&got); err != nil {
		t.Fatal(err)
	}
	if got.String() != want.String() {
		t.Errorf("a follower loses bytes: it sees %d of %d", got.Len(), want.Len())
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	if err := os.WriteFile(path, []byte("before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	seen := make(chan string, 10)
	end := make(chan error)
	go func() { end <- Follow(ctx, path, writerFunc(func(p []byte) { seen <- string(p) })) }()
	if got := <-seen; got != "before\n" {
		t.Errorf("a follower does not begin with the oldest bytes: %q", got)
	}
	l, err := Open(path, minMax)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := l.Write([]byte("after\n")); err != nil {
		t.Fatal(err)
	}
	if got := <-seen; got != "after\n" {
		t.Errorf("a follower does not see what is added: %q", got)
	}
	cancel()
	if err := <-end; err != nil {
		t.Error(err)
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }
