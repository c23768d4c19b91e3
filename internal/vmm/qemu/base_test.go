package qemu_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/vmm"
	"banger/internal/vmm/memory"
	"banger/internal/vmm/qemu"
)

// holding starts a process that has a file in the place of a machine's memory.
func holding(t *testing.T, f *os.File) int {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.ExtraFiles = []*os.File{f, f, f, f, f} // 3 to 7
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd.Process.Pid
}

// TestTakenOverBase has a VMM that puts a file that it may not read in the place of its memory, so
// that the daemon would copy that file into the machine's saved memory.
func TestTakenOverBase(t *testing.T) {
	dir := t.TempDir()
	paths := map[string]string{"base": filepath.Join(dir, "base"), "secret": filepath.Join(dir, "secret")}
	for content, path := range paths {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	base, err := os.Open(paths["base"])
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(base.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	mapped := memory.Backing{Device: st.Dev, Inode: st.Ino}
	if err := unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, kind := range map[string]fault.Kind{paths["secret"]: fault.Denied, filepath.Join(dir, "pipe"): fault.Invalid, os.DevNull: fault.Invalid} {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		other := os.NewFile(uintptr(fd), path)
		defer other.Close()
		pid := holding(t, other)
		if got, err := qemu.OpenBase(pid, base, mapped); got != nil || fault.KindOf(err) != kind {
			t.Errorf("%s in the place of the memory is not refused as %v: %v", path, kind, err)
		}
		if got, err := qemu.OpenBase(pid, nil, mapped); got != nil || err == nil {
			t.Errorf("%s in the place of the memory is not refused for a machine of an older version", path)
		}
	}
	if err := os.Remove(paths["base"]); err != nil {
		t.Fatal(err)
	}
	pid := holding(t, base)
	for _, from := range []*os.File{base, nil} {
		got, err := qemu.OpenBase(pid, from, mapped)
		if err != nil {
			t.Fatalf("the memory itself is refused: %v", err)
		}
		defer got.Close()
		if content, err := io.ReadAll(got); err != nil || string(content) != "base" {
			t.Errorf("the memory reads %q: %v", content, err)
		}
	}
}

// adoptAs adopts a machine by its state after a change.
func adoptAs(t *testing.T, in vmm.Instance, change func(state map[string]any)) vmm.Instance {
	t.Helper()
	var state map[string]any
	decoder := json.NewDecoder(bytes.NewReader(in.State()))
	decoder.UseNumber() // large ones change otherwise
	if err := decoder.Decode(&state); err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	change(state)
	data, err := json.Marshal(state)
	if err != nil {
		t.Fatal(err)
	}
	again, err := adopt(t, data)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, again) })
	return again
}

// TestSaveRestored saves a restored machine by the state that its start stored. In another state,
// the memory file is another file.
func TestSaveRestored(t *testing.T) {
	in := start(t, machine(t, tiny{then: off}))
	booted(t, in)
	from, _ := save(t, in)
	in = restore(t, machine(t, tiny{}), from)
	in = adoptAs(t, in, func(map[string]any) {})
	save(t, in)
	in = adoptAs(t, in, func(state map[string]any) { state["base"].(map[string]any)["inode"] = 1 })
	if _, err := in.(vmm.Saver).Save(deadline(t), request(t, t.TempDir())); fault.KindOf(err) != fault.Denied {
		t.Errorf("a VMM with another file in the place of its memory is saved: %v", err)
	}
	powersOff(t, in)
}

// TestSaveOfAnotherSize has a VMM that reports another size of its memory than it was started with.
func TestSaveOfAnotherSize(t *testing.T) {
	m := machine(t, tiny{then: off})
	in := start(t, m)
	booted(t, in)
	in = adoptAs(t, in, func(state map[string]any) { state["memory"] = int64(m.Memory) / 2 })
	if _, err := in.(vmm.Saver).Save(deadline(t), request(t, t.TempDir())); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a VMM that reports another size of its memory is saved: %v", err)
	}
	in = adoptAs(t, in, func(state map[string]any) { delete(state, "memory") })
	save(t, in)
	powersOff(t, in)
}

// TestSaveFlushesItsOwnDrives has a VMM whose drive is a pipe by the time of a save. The save opens
// it only if the start named it, and does not wait for a writer.
func TestSaveFlushesItsOwnDrives(t *testing.T) {
	for _, own := range []bool{true, false} {
		m := machine(t, tiny{then: off})
		in := start(t, m)
		booted(t, in)
		in = adoptAs(t, in, func(state map[string]any) {
			if !own {
				delete(state, "drives")
			}
		})
		path := m.Drives[1].Path
		if err := errors.Join(os.Rename(path, path+".moved"), unix.Mkfifo(path, 0o600)); err != nil {
			t.Fatal(err)
		}
		watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(watch)
		if _, err := unix.InotifyAddWatch(watch, path, unix.IN_OPEN); err != nil {
			t.Fatal(err)
		}
		save(t, in)
		n, _ := unix.Read(watch, make([]byte, 4096))
		if opened := n > 0; opened != own {
			t.Errorf("a drive that the start named (%v) was opened (%v)", own, opened)
		}
		powersOff(t, in)
	}
}
