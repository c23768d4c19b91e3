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

func tryLock(t *testing.T, f *os.File) bool {
	t.Helper()
	free, err := TryLock(f)
	if err != nil {
		t.Fatal(err)
	}
	return free
}

// TestLockWaits checks that Lock waits for the present holder.
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
		t.Fatalf("the second Lock did not wait for the first (%v)", err)
	case <-time.After(50 * time.Millisecond):
	}
	first.Close()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if tryLock(t, third) {
		t.Error("TryLock took a lock that is held")
	}
}

// TestLockIsGivenUp checks that a wait ends with its context, and that the wait in the background
// holds no lock once its file is closed.
func TestLockIsGivenUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, second, third := open(t, path), open(t, path), open(t, path)
	if !tryLock(t, first) {
		t.Fatal("a new lock is not free")
	}
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if err := Lock(ctx, second); !errors.Is(err, why) {
		t.Errorf("Lock with an ended context: got %v, want its cause", err)
	}
	second.Close()
	first.Close()
	if err := Lock(t.Context(), third); err != nil {
		t.Errorf("after a wait ended, its lock is not free: %v", err)
	}
}

func TestNoFile(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "lock"))
	f.Close()
	if err := Lock(t.Context(), f); err == nil {
		t.Error("a closed file was locked")
	}
}
