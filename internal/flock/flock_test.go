package flock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func try(t *testing.T, f *os.File) bool {
	t.Helper()
	free, err := TryLock(f)
	if err != nil {
		t.Fatal(err)
	}
	return free
}

// TestLockWaits for the one who has it.
func TestLockWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, second, third := open(t, path), open(t, path), open(t, path)
	if err := Lock(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() { got <- Lock(t.Context(), second) }()
	select {
	case err := <-got:
		t.Fatalf("two have the lock (%v)", err)
	case <-time.After(50 * time.Millisecond):
	}
	first.Close()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if try(t, third) {
		t.Error("the lock is free although it was taken")
	}
}

// TestLockIsGivenUp when the context ends, and then for good: what still waited holds nothing once its file is closed.
func TestLockIsGivenUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, second, third := open(t, path), open(t, path), open(t, path)
	if !try(t, first) {
		t.Fatal("a new lock is not free")
	}
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if err := Lock(ctx, second); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	second.Close()
	first.Close()
	if err := Lock(t.Context(), third); err != nil {
		t.Error(err)
	}
}

func TestNoFile(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "lock"))
	f.Close()
	if err := Lock(t.Context(), f); err == nil {
		t.Error("a closed file was locked")
	}
}
