package qemu_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/testkit"
	"banger/internal/vmm"
)

// TestFullMemory restores a machine from a memory file on a tmpfs that is full then. The guest can
// use all of its memory. If the file gets a hole again, the VMM ends when the guest uses it. The
// reason is reported as such, also to a daemon that has adopted the machine.
func TestFullMemory(t *testing.T) {
	testkit.Require(t, "root", os.Geteuid() == 0, "a small file system has to be mounted")
	use := []byte{0xC6, 0x05, 0, 0, 0, 0x03, 1} // mov byte [48 MiB], 1
	m := machine(t, tiny{then: append(use, off...)})
	for _, c := range []struct{ hole, adopted bool }{{false, false}, {true, false}, {true, true}} {
		dir := t.TempDir()
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=80m"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
		first := start(t, m)
		booted(t, first)
		req := request(t, dir)
		saved, err := first.(vmm.Saver).Save(deadline(t), req)
		if err != nil {
			t.Fatal(err)
		}
		end(t, first)
		in := restore(t, m, checkpoint(t, req, saved))
		if c.hole {
			const punch = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
			if err := unix.Fallocate(int(req.Memory.Fd()), punch, 48<<20, 4096); err != nil {
				t.Fatal(err)
			}
		}
		if c.adopted {
			if err := in.Close(); err != nil {
				t.Fatal(err)
			}
			if in, err = adopt(t, in.State()); err != nil {
				t.Fatal(err)
			}
		}
		filler, err := os.Create(filepath.Join(dir, "filler"))
		for err == nil {
			_, err = filler.Write(make([]byte, 4096))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		exit := endBy(t, in)
		if !c.hole && exit.Reason != vmm.ExitPowerOff {
			t.Errorf("on a full file system, the machine does not power off, but ends by %+v", exit)
		}
		if c.hole && (!exit.Full || exit.Detail != "the file system of its memory is full: "+dir) {
			t.Errorf("%+v: the machine's end is reported as %+v, which does not name the full file system %s", c, exit, dir)
		}
		_ = errors.Join(filler.Close(), in.Close())
	}
}
