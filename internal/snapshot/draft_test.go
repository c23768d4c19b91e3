package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/testkit"
)

func TestDisksOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a")
	d, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Commit(t.Context(), Meta{}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("committing an empty draft: got %v, want fault.Invalid", err)
	}
	src := filepath.Join(t.TempDir(), "src")
	if err := os.WriteFile(src, []byte("disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "A", "../x", "a/b", "a.b", strings.Repeat("x", maxName+1)} {
		if err := d.CloneDisk(t.Context(), name, src); fault.KindOf(err) != fault.Invalid {
			t.Errorf("the bad disk name %q: got %v, want fault.Invalid", name, err)
		}
	}
	longer := src + "-before"
	if err := os.WriteFile(longer, []byte("the disk as it was"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{longer, src} {
		if err := d.CloneDisk(t.Context(), "system", from); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(d.DiskPath("system")); string(got) != "disk" {
		t.Errorf("the disk holds %q, %v", got, err)
	}
	s, err := d.Commit(t.Context(), Meta{})
	if err != nil {
		t.Fatal(err)
	}
	if m := s.Meta(); m.Kind != model.SnapshotDisk || m.Disks[0].Sum != "" || m.Created.IsZero() {
		t.Errorf("the description of a snapshot of disks is wrong: %+v", m)
	}
	if _, err := s.OpenMemory(); fault.KindOf(err) != fault.NotFound {
		t.Errorf("opening the memory of a snapshot of disks: got %v, want fault.NotFound", err)
	}
	if _, err := Open(t.Context(), dir); err != nil {
		t.Error(err)
	}
	if err := s.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCommitRefuses(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, d *Draft) context.Context{
		"no device":    func(t *testing.T, d *Draft) context.Context { os.Remove(d.Device()); return t.Context() },
		"empty device": func(t *testing.T, d *Draft) context.Context { os.Truncate(d.Device(), 0); return t.Context() },
		"large device": func(t *testing.T, d *Draft) context.Context {
			os.Truncate(d.Device(), int64(maxDevice)+1)
			return t.Context()
		},
		"a link": func(t *testing.T, d *Draft) context.Context {
			os.Rename(d.Device(), d.Device()+"2")
			os.Symlink("device2", d.Device())
			return t.Context()
		},
		"a pipe": func(t *testing.T, d *Draft) context.Context {
			os.Remove(d.Device())
			unix.Mkfifo(d.Device(), 0o600)
			return t.Context()
		},
		"canceled": func(t *testing.T, d *Draft) context.Context {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return ctx
		},
		"somebody first": func(t *testing.T, d *Draft) context.Context { os.Mkdir(d.dir, 0o700); return t.Context() },
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			d := draft(t, filepath.Join(parent, "a"))
			want := map[string]fault.Kind{"canceled": fault.Canceled, "somebody first": fault.Exists}[name]
			if want == "" {
				want = fault.Invalid
			}
			if _, err := d.Commit(spoil(t, d), testMeta); fault.KindOf(err) != want {
				t.Errorf("got %v of kind %q, want %q", err, fault.KindOf(err), want)
			}
			if err := d.Discard(); err != nil {
				t.Error(err)
			}
			if got := entries(t, parent); len(got) != 0 && (name != "somebody first" || len(got) != 1) {
				t.Errorf("left over: %v", got)
			}
		})
	}
}

// TestCrash kills a process in each phase of making and removing a snapshot.
func TestCrash(t *testing.T) {
	phases := []string{"begun", "filled", "synced", "renamed", "out of sight"}
	if dir := os.Getenv("BANGER_TEST_CRASH_DIR"); dir != "" {
		crash := func(phase string) {
			if phase == os.Getenv("BANGER_TEST_CRASH_PHASE") {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}
		d := draft(t, dir)
		d.hook = crash
		crash("begun")
		s, err := d.Commit(t.Context(), testMeta)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(s.Dir(), tempName(s.Dir())); err != nil { // as Remove begins
			t.Fatal(err)
		}
		crash("out of sight")
		t.Fatal("the process survived its kill")
	}
	for _, phase := range phases {
		t.Run(phase, func(t *testing.T) {
			t.Parallel()
			parent := t.TempDir()
			dir := filepath.Join(parent, "a")
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestCrash$")
			cmd.Env = append(os.Environ(), "BANGER_TEST_CRASH_DIR="+dir, "BANGER_TEST_CRASH_PHASE="+phase, "TMPDIR="+t.TempDir())
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("the process was not killed: %v: %s", err, out)
			}
			s, err := Open(t.Context(), dir)
			if want := phase == "renamed"; want != (err == nil) || !want && fault.KindOf(err) != fault.NotFound {
				t.Errorf("after the crash the snapshot is neither whole nor absent: %v", err)
			}
			if err := CleanTemp(parent); err != nil {
				t.Error(err)
			}
			if s != nil {
				if err := s.Verify(t.Context()); err != nil {
					t.Error(err)
				}
				sameContent(t, s)
				if err := Remove(dir); err != nil {
					t.Error(err)
				}
			}
			if got := entries(t, parent); len(got) != 0 {
				t.Errorf("left over: %v", got)
			}
			commit(t, dir)
		})
	}
}

// TestConcurrent commits several drafts for one name, while another goroutine cleans up all the
// time.
func TestConcurrent(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "a")
	stop := make(chan struct{})
	var cleaner, makers sync.WaitGroup
	cleaner.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := CleanTemp(parent); err != nil {
				t.Error(err)
			}
		}
	})
	src := filepath.Join(t.TempDir(), "src")
	if err := os.WriteFile(src, []byte("disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	var won atomic.Int32
	for range 8 {
		makers.Go(func() {
			d, err := Create(dir)
			if fault.KindOf(err) == fault.Exists {
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			defer func() {
				if err := d.Discard(); err != nil {
					t.Error(err)
				}
			}()
			if err := d.CloneDisk(t.Context(), "system", src); err != nil {
				t.Error(err)
			}
			switch _, err := d.Commit(t.Context(), Meta{}); fault.KindOf(err) {
			case "":
				won.Add(1)
			case fault.Exists:
			default:
				t.Error(err)
			}
		})
	}
	makers.Wait()
	close(stop)
	cleaner.Wait()
	if won.Load() != 1 {
		t.Errorf("%d drafts committed, want 1", won.Load())
	}
	if _, err := Open(t.Context(), dir); err != nil {
		t.Error(err)
	}
	if got := entries(t, parent); len(got) != 1 {
		t.Errorf("left over: %v", got)
	}
}

func TestCleanTemp(t *testing.T) {
	parent := t.TempDir()
	if err := CleanTemp(filepath.Join(parent, "none")); err != nil {
		t.Error(err)
	}
	live := draft(t, filepath.Join(parent, "live"))
	keep := []string{"snapshot", disk.TempPrefix + "system.ext4-1"} // a file is not CleanTemp's
	if err := errors.Join(os.Mkdir(filepath.Join(parent, keep[0]), 0o700), os.WriteFile(filepath.Join(parent, keep[1]), nil, 0o600),
		os.MkdirAll(filepath.Join(parent, disk.TempPrefix+"x-1", "deep"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := CleanTemp(parent); err != nil {
		t.Error(err)
	}
	if got := entries(t, parent); len(got) != 3 {
		t.Errorf("files %v, want a draft and %v", got, keep)
	}
	if _, err := live.Commit(t.Context(), testMeta); err != nil {
		t.Error(err)
	}
}

// TestFull fills the disk in each part of making a snapshot.
func TestFull(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	if err := os.WriteFile(src, noise(1, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	small := func(t *testing.T) string {
		dir := t.TempDir()
		err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=512k")
		testkit.Require(t, "root", err == nil, fmt.Sprintf("mounting a tmpfs: %v", err))
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
		return dir
	}
	check := func(t *testing.T, err error) {
		t.Helper()
		if fault.KindOf(err) != fault.Unavailable || fault.HintOf(err) == "" || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("got %v with hint %q, want an error about a full disk", err, fault.HintOf(err))
		}
	}
	t.Run("disk", func(t *testing.T) {
		parent := small(t)
		d, err := Create(filepath.Join(parent, "a"))
		if err != nil {
			t.Fatal(err)
		}
		check(t, d.CloneDisk(t.Context(), "system", src))
		if err := d.Discard(); err != nil || len(entries(t, parent)) != 0 {
			t.Errorf("left over %v, %v", entries(t, parent), err)
		}
	})
	t.Run("meta", func(t *testing.T) {
		parent := small(t)
		d, err := Create(filepath.Join(parent, "a"))
		if err != nil {
			t.Fatal(err)
		}
		memory, err := d.Memory()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(d.Device(), []byte("device"), 0o600); err != nil {
			t.Fatal(err)
		}
		for b := noise(1, 4096); ; { // up to the last block
			if _, err := memory.Write(b); err != nil {
				break
			}
		}
		_, err = d.Commit(t.Context(), testMeta)
		check(t, err)
		if err := d.Discard(); err != nil || len(entries(t, parent)) != 0 {
			t.Errorf("left over %v, %v", entries(t, parent), err)
		}
	})
}

// TestClockSetBack: the clock is set back while a snapshot is made, so that a file looks as if it
// had changed after the description was written. The snapshot is good.
func TestClockSetBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a")
	src := filepath.Join(t.TempDir(), "src")
	if err := os.WriteFile(src, noise(1, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.CloneDisk(t.Context(), "system", src); err != nil {
		t.Fatal(err)
	}
	d.hook = func(phase string) {
		if phase != "described" {
			return
		}
		time.Sleep(20 * time.Millisecond) // more than the granularity of file times
		if err := os.Chmod(d.DiskPath("system"), 0o600); err != nil {
			t.Error(err)
		}
	}
	if _, err := d.Commit(t.Context(), testMeta); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), dir); err != nil {
		t.Errorf("the snapshot cannot be opened: %v", err)
	}
}
