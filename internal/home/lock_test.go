package home

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/flock"
	"banger/internal/paths"
	"banger/internal/testkit"
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
	if text, err := os.ReadFile(paths.LockIn(root)); err != nil || strings.TrimSpace(string(text)) != strconv.Itoa(os.Getpid()) {
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

// TestLockOnFullDisk takes the lock of a root that has no room: a new lock, and one that an earlier
// daemon left while it was stopping. Neither may name the earlier daemon.
func TestLockOnFullDisk(t *testing.T) {
	root := t.TempDir()
	err := unix.Mount("tmpfs", root, "tmpfs", 0, "mode=700,size=65536")
	testkit.Require(t, "root", err == nil, fmt.Sprintf("mounting a tmpfs: %v", err))
	t.Cleanup(func() { unix.Unmount(root, unix.MNT_DETACH) })
	fill := func() {
		if err := os.WriteFile(filepath.Join(root, "filler"), make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("filling the disk: %v", err)
		}
	}
	fill()
	l, err := acquire(testContext(t), root)
	if err != nil {
		t.Fatalf("a new lock on a full disk: %v", err)
	}
	if pid, _ := holder(l.f); pid != "unknown" {
		t.Errorf("the empty lock file names %s", pid)
	}
	if err := errors.Join(os.Remove(filepath.Join(root, "filler")), l.say(stopping), l.release()); err != nil {
		t.Fatal(err)
	}
	fill()
	if l, err = acquire(testContext(t), root); err != nil {
		t.Fatalf("a lock on a full disk: %v", err)
	}
	defer l.release()
	if pid, leaving := holder(l.f); pid != strconv.Itoa(os.Getpid()) || leaving {
		t.Errorf("the lock file names %s, stopping %v", pid, leaving)
	}
}

// TestStateReplaced removes the state directory under a daemon, and puts a copy and then the same
// one back. Meanwhile the daemon makes nothing in the home.
func TestStateReplaced(t *testing.T) {
	layout := paths.At(t.TempDir())
	held, err := Acquire(testContext(t), layout)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	if err := held.CheckCurrent(); err != nil {
		t.Errorf("a state that is there: %v", err)
	}
	away := layout.State + ".away"
	if err := errors.Join(os.Rename(layout.State, away), os.RemoveAll(layout.Runtime)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := held.CheckCurrent(); fault.KindOf(err) != fault.WrongState {
			t.Errorf("a state that is another one: %v", err)
		}
		if err := held.KeepRuntime(); err == nil {
			t.Error("the runtime directory was made for another state")
		}
		if _, err := os.Lstat(layout.Runtime); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the runtime directory is there: %v", err)
		}
		if err := os.CopyFS(layout.State, os.DirFS(away)); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.RemoveAll(layout.State), os.Rename(away, layout.State)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(held.CheckCurrent(), held.KeepRuntime()); err != nil {
		t.Errorf("the state that came back: %v", err)
	}
}

// TestStateIsDoubtful does things to the state directory that do not all mean that another one is
// there.
func TestStateIsDoubtful(t *testing.T) {
	loop := func(state string) error {
		return errors.Join(os.Rename(state, state+".away"), os.Symlink(state, state))
	}
	for name, c := range map[string]struct {
		do   func(state string) error
		want fault.Kind
	}{
		"its lock file was removed": {func(state string) error { return os.Remove(paths.LockIn(state)) }, ""},
		"nobody can look":           {loop, ""},
		"its lock file was replaced": {func(state string) error {
			return errors.Join(os.Remove(paths.LockIn(state)), os.WriteFile(paths.LockIn(state), nil, 0o600))
		}, fault.WrongState},
		"it was emptied": {func(state string) error {
			return errors.Join(os.Remove(paths.Layout{State: state}.Database()), os.Remove(paths.LockIn(state)))
		}, fault.WrongState},
		"a new one": {func(state string) error { return errors.Join(os.RemoveAll(state), os.Mkdir(state, 0o700)) }, fault.WrongState},
	} {
		layout := paths.At(t.TempDir())
		held, err := Acquire(testContext(t), layout)
		if err != nil {
			t.Fatal(err)
		}
		err = errors.Join(os.WriteFile(layout.Database(), nil, 0o600), c.do(layout.State))
		if err != nil {
			t.Fatal(err)
		}
		if err := held.CheckCurrent(); fault.KindOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
		if err := held.Release(); err != nil {
			t.Error(err)
		}
	}
}
