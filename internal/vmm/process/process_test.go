package process

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"banger/internal/fault"
	"banger/internal/testkit"
)

const firstThreadEnds = "BANGER_TEST_FIRST_THREAD_ENDS"

func init() {
	if os.Getenv(firstThreadEnds) != "" { // in the first thread
		runtime.LockOSThread()
		go func() { time.Sleep(time.Hour) }()
		_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT, 0, 0, 0)
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func spawn(t *testing.T, files []*os.File, argv ...string) *Process {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	p, err := Spawn(Spec{Path: "/bin/sh", Args: append([]string{"-c"}, argv...), Files: append([]*os.File{null, null, null}, files...)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Signal(syscall.SIGKILL)
		_ = p.Wait(t.Context())
		_ = p.Close()
	})
	return p
}

func wait(t *testing.T, p *Process) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := p.Wait(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestStatus(t *testing.T) {
	for script, want := range map[string]func(syscall.WaitStatus) bool{
		"exit 0":        func(s syscall.WaitStatus) bool { return s.Exited() && s.ExitStatus() == 0 },
		"exit 7":        func(s syscall.WaitStatus) bool { return s.Exited() && s.ExitStatus() == 7 },
		"kill -TERM $$": func(s syscall.WaitStatus) bool { return s.Signaled() && s.Signal() == syscall.SIGTERM },
		"kill -ABRT $$": func(s syscall.WaitStatus) bool { return s.Signaled() && s.Signal() == syscall.SIGABRT },
	} {
		p := spawn(t, nil, "ulimit -c 0; "+script)
		wait(t, p)
		if s, ok := p.Status(); !ok || !want(s) {
			t.Errorf("%s: the exit status of a child is not reported: %#x, known %v", script, s, ok)
		}
		if _, err := os.Stat("/proc/" + strconv.Itoa(p.ID().PID)); err == nil {
			t.Errorf("%s: a child that has ended stays as a zombie", script)
		}
	}
}

func TestOpen(t *testing.T) {
	p := spawn(t, nil, "exec sleep 100")
	id := p.ID()
	if now, err := Identify(id.PID); err != nil || now != id {
		t.Fatalf("the identity of a process changes from %+v to %+v: %v", id, now, err)
	}
	other := id
	other.Start++
	if _, err := Open(other); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a process with another start time is taken for the same: %v", err)
	}
	other = id
	other.Boot = "00000000-0000-0000-0000-000000000000"
	if _, err := Open(other); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a process of another boot is taken for the same: %v", err)
	}
	q, err := Open(id)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if u, err := q.Usage(); err != nil || u.PSS <= 0 {
		t.Errorf("a process that runs has no usage: %+v, %v", u, err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	enough := errors.New("enough")
	cancel(enough)
	if err := q.Wait(ctx); !errors.Is(err, enough) {
		t.Errorf("waiting does not end with its context: %v", err)
	}
	if err := q.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait(t, p)
	wait(t, q)
	if err := q.Signal(syscall.SIGKILL); err != nil {
		t.Errorf("signalling a process that has ended is an error: %v", err)
	}
	if _, err := Open(id); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a process that has ended is found: %v", err)
	}
}

func TestCloseStopsWatching(t *testing.T) {
	p := spawn(t, nil, "exec sleep 100")
	q, err := Open(p.ID())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(q.Close(), q.Close()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-q.Done():
		t.Error("Close reports the end of a process that runs")
	default:
	}
}

func TestHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := Holder(ctx, path); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a lock file that does not exist has a holder: %v", err)
	}
	lock, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(path); fault.KindOf(err) != fault.Locked {
		t.Errorf("a lock that is held is not refused: %v", err)
	}
	brief, cancelBrief := context.WithTimeout(ctx, 30*time.Millisecond)
	defer cancelBrief()
	if _, err := Holder(brief, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Holder does not wait for a process that is being made: %v", err)
	}
	p := spawn(t, []*os.File{lock}, "exec sleep 100")
	lock.Close()
	if id, err := Holder(ctx, path); err != nil || id != p.ID() {
		t.Errorf("the lock leads to %+v (%v), not to its holder %+v", id, err, p.ID())
	}
	_ = p.Signal(syscall.SIGKILL)
	wait(t, p)
	if _, err := Holder(ctx, path); fault.KindOf(err) != fault.NotFound {
		t.Errorf("the lock of a process that has ended has a holder: %v", err)
	}
}

// TestHolderEnds: a process that just ends looks once as if it had the lock from another directory.
func TestHolderEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	lock, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	const other, gone = fault.WrongState, fault.NotFound
	for _, c := range []struct {
		seen []fault.Kind
		want fault.Kind
	}{
		{[]fault.Kind{other, gone}, gone},
		{[]fault.Kind{other, other}, other},
		{[]fault.Kind{gone}, gone},
	} {
		looks := 0
		_, err := holder(t.Context(), path, func(os.FileInfo, string) (ID, error) {
			looks++
			return ID{}, fault.New(c.seen[looks-1], "look %d", looks)
		})
		if fault.KindOf(err) != c.want || looks != len(c.seen) {
			t.Errorf("a holder seen as %v is reported as %v after %d looks", c.seen, err, looks)
		}
	}
}

// TestHolds moves, copies and removes the directory of a lock that a process holds.
func TestHolds(t *testing.T) {
	top := t.TempDir()
	at := func(elem ...string) string { return filepath.Join(append([]string{top}, elem...)...) }
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(at("a", "run"), 0o700), os.Symlink("a", at("link")), os.MkdirAll(at("b", "run"), 0o700), os.MkdirAll(at("c", "run"), 0o700))
	lock, err := Lock(at("a", "run", "lock"))
	must(err)
	p := spawn(t, []*os.File{lock}, "exec sleep 100")
	must(lock.Close(), os.WriteFile(at("b", "run", "lock"), nil, 0o600))
	check := func(when string, held ...string) {
		t.Helper()
		for _, home := range []string{"a", "b", "c", "d", "link", "missing"} {
			want := slices.Contains(held, home)
			if got, err := p.Holds(at(home, "run", "lock")); err != nil || got != want {
				t.Errorf("%s: holds the lock in %s: %v (%v), want %v", when, home, got, err, want)
			}
			id, err := Holder(t.Context(), at(home, "run", "lock"))
			if _, gone := os.Stat(at(home, "run", "lock")); gone != nil {
				want = false
			}
			if found := err == nil; found != want || found && id != p.ID() {
				t.Errorf("%s: the lock in %s leads to %+v (%v), want the process: %v", when, home, id, err, want)
			}
		}
	}
	check("at first", "a", "link")
	must(os.Link(at("a", "run", "lock"), at("c", "run", "lock")))
	check("with a hard link", "a", "link")
	if _, err := Holder(t.Context(), at("c", "run", "lock")); fault.KindOf(err) != fault.WrongState {
		t.Errorf("the hard link leads to the process: %v", err)
	}
	must(os.Remove(at("link")), os.Rename(at("a"), at("d")))
	check("moved, with a hard link", "d")
	must(os.Remove(at("c", "run", "lock")))
	check("moved", "d")
	must(os.RemoveAll(at("d", "run")), os.Symlink("d", at("link")))
	check("removed", "d", "link")
}

// TestHoldsWithoutLock: a program that was taken over may close its lock and end its first thread.
func TestHoldsWithoutLock(t *testing.T) {
	top := t.TempDir()
	at := func(home string) string { return filepath.Join(top, home, "lock") }
	for _, home := range []string{"a", "b"} {
		if err := os.Mkdir(filepath.Join(top, home), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, how := range []Spec{
		{Path: "/bin/sh", Args: []string{"-c", "exec sleep 100"}},
		{Path: self, Env: []string{firstThreadEnds + "=1"}},
	} {
		how.Dir = filepath.Join(top, "a")
		p, err := Spawn(how)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if how.Env != nil {
			testkit.WaitFor(t, 10*time.Second, "the end of the first thread", func() bool {
				s, err := readStat(p.ID().PID)
				return err == nil && s.state == 'Z'
			})
		}
		for home, want := range map[string]bool{"a": true, "b": false, "missing": false} {
			if got, err := p.Holds(at(home)); err != nil || got != want {
				t.Errorf("%s: without a lock, a process in a belongs to %s: %v, %v", how.Path, home, got, err)
			}
		}
		again, err := Open(p.ID())
		if err != nil {
			t.Fatalf("%s: %v", how.Path, err)
		}
		defer again.Close()
		if err := again.Signal(syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		wait(t, again)
		wait(t, p)
		if _, err := Identify(p.ID().PID); fault.KindOf(err) != fault.NotFound {
			t.Errorf("%s: a process that has ended is found: %v", how.Path, err)
		}
	}
}

// TestHolderIsNoShell: a process that is no VMM is not found by its directory.
func TestHolderIsNoShell(t *testing.T) {
	dir := t.TempDir()
	lock, err := Lock(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	lock.Close()
	p, err := Spawn(Spec{Path: "/bin/sh", Args: []string{"-c", "exec sleep 100"}, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if id, err := Holder(t.Context(), lock.Name()); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a shell in the run directory passes as the VMM: %+v, %v", id, err)
	}
	_ = p.Signal(syscall.SIGKILL)
	wait(t, p)
}

func TestSpawnFails(t *testing.T) {
	if _, err := Spawn(Spec{Path: "/does/not/exist"}); err == nil || !strings.Contains(err.Error(), "/does/not/exist") {
		t.Errorf("the error of a program that does not exist does not name it: %v", err)
	}
}

func TestParse(t *testing.T) {
	tail := " S 1 2 3 4 5 6 7 8 9 10 111 222 13 14 15 16 17 18 98765 20"
	for in, want := range map[string]stat{
		"12 (sh)" + tail:        {state: 'S', session: 3, terminal: 4, utime: 111, stime: 222, threads: 17, start: 98765},
		"12 (a) R (b c)" + tail: {state: 'S', session: 3, terminal: 4, utime: 111, stime: 222, threads: 17, start: 98765},
		"":                      {},
		"12 (sh":                {},
		"12 (sh) S 1 2 3":       {},
		"12 (sh) Sx" + tail[2:]: {},
		"12 (sh)" + strings.Replace(tail, "111", "-1", 1): {},
	} {
		got, err := parseStat([]byte(in))
		if (err != nil) != (want == stat{}) || err == nil && got != want {
			t.Errorf("the stat %q is read as %+v, not as %+v: %v", in, got, want, err)
		}
	}
	if pss, err := parsePSS([]byte("5566-7788 ---p 0 [rollup]\nRss:    900 kB\nPss:     123 kB\n")); pss != 123<<10 || err != nil {
		t.Errorf("the Pss is read as %d: %v", pss, err)
	}
	if _, err := parsePSS([]byte("Rss: 1 kB\n")); err == nil {
		t.Error("a smaps_rollup without Pss is accepted")
	}
}
