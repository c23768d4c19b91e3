package home

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/flock"
	"banger/internal/paths"
)

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestLock(t *testing.T) {
	root := t.TempDir()
	first, err := acquire(testContext(t), root)
	if err != nil {
		t.Fatal(err)
	}
	_, err = acquire(testContext(t), root)
	if fault.KindOf(err) != fault.Locked || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("a second lock: %v", err)
	}
	// A stopping holder is waited for.
	if err := first.say(stopping); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := acquire(short, root); fault.KindOf(err) != fault.Locked {
		t.Errorf("waiting for one that does not end: %v", err)
	}
	got := make(chan error, 1)
	go func() {
		second, err := acquire(testContext(t), root)
		if err == nil {
			err = second.release()
		}
		got <- err
	}()
	if err := first.release(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Errorf("waiting for one that ends: %v", err)
	}
	if text, err := os.ReadFile(paths.LockIn(root)); err != nil || string(text) != strconv.Itoa(os.Getpid())+"\n" {
		t.Errorf("the lock file holds %q, %v", text, err)
	}
}

// TestLinkedLock copies a root by hard links. Both roots can be locked at once.
func TestLinkedLock(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	first, err := acquire(testContext(t), a)
	if err != nil {
		t.Fatal(err)
	}
	defer first.release()
	if err := os.Link(paths.LockIn(a), paths.LockIn(b)); err != nil {
		t.Fatal(err)
	}
	second, err := acquire(testContext(t), b)
	if err != nil {
		t.Fatalf("locking the copy: %v", err)
	}
	defer second.release()
	if _, err := acquire(testContext(t), b); fault.KindOf(err) != fault.Locked {
		t.Errorf("locking the copy again: %v", err)
	}
}

// TestLockIsNoLink puts a symbolic link in the place of a lock.
func TestLockIsNoLink(t *testing.T) {
	root, other := t.TempDir(), filepath.Join(t.TempDir(), "file")
	if err := errors.Join(os.WriteFile(other, []byte("keep"), 0o600), os.Symlink(other, paths.LockIn(root))); err != nil {
		t.Fatal(err)
	}
	if l, err := acquire(testContext(t), root); err == nil {
		l.release()
		t.Error("the lock was taken through a link")
	}
	if text, err := os.ReadFile(other); err != nil || string(text) != "keep" {
		t.Errorf("the link's target holds %q, %v", text, err)
	}
}

// TestHolder asks for the daemon before, during and after its life, and while it stops.
func TestHolder(t *testing.T) {
	s := newSite(t.TempDir())
	is := func(when string, want Process) {
		t.Helper()
		if got, err := Holder(s.Layout); err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", when, got, err, want)
		}
	}
	is("before", Process{})
	held, err := Acquire(testContext(t), s.Layout)
	if err != nil {
		t.Fatal(err)
	}
	is("during", Process{PID: os.Getpid()})
	held.Stopping()
	is("stopping", Process{PID: os.Getpid(), Stopping: true})
	if err := held.Release(); err != nil {
		t.Fatal(err)
	}
	is("after", Process{})
}

// TestHoldersLookAtOnce: someone who looks for the daemon is not taken for it.
func TestHoldersLookAtOnce(t *testing.T) {
	s := newSite(t.TempDir())
	held, err := Acquire(testContext(t), s.Layout)
	if err == nil {
		err = held.Release()
	}
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(paths.LockIn(s.State))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if free, err := flock.TryShared(f); !free || err != nil {
		t.Fatalf("the first look: %v, %v", free, err)
	}
	if got, err := Holder(s.Layout); err != nil || got != (Process{}) {
		t.Errorf("a look beside another one: got %+v, %v, want no process", got, err)
	}
}
