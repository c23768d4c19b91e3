package socket

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestLongPaths(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, length := range []int{1, 60, 200} {
		dir := filepath.Join(t.TempDir(), strings.Repeat("x", length))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "sock")
		if _, err := Dial(ctx, path); !errors.Is(err, syscall.ENOENT) || !strings.Contains(err.Error(), path) {
			t.Errorf("dialing a missing socket: got %v, want an error that names %s", err, path)
		}
		l, err := Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := Dial(ctx, path)
		if err != nil {
			t.Fatalf("dialing a path of %d bytes: %v", len(path), err)
		}
		conn.Close()
		l.Close()
		if _, err := Dial(ctx, path); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dialing a closed socket: got %v, want that the file is there and refuses", err)
		}
		if _, err := Dial(ctx, filepath.Join(dir, "no", strings.Repeat("x", 100))); !errors.Is(err, syscall.ENOENT) {
			t.Errorf("dialing in a missing directory: %v", err)
		}
	}
}
