package descriptor

import (
	"os"
	"os/exec"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// inheritable returns a descriptor as a caller without O_CLOEXEC leaves it.
func inheritable(t *testing.T) int {
	t.Helper()
	fd, err := unix.Open("/dev/null", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func TestKeep(t *testing.T) {
	fd := inheritable(t)
	if fds, err := Inherited(); err != nil || !slices.Contains(fds, fd) {
		t.Fatalf("the inherited descriptors are %v, %v; want %d among them", fds, err, fd)
	}
	if err := Keep(); err != nil {
		t.Fatal(err)
	}
	if fds, err := Inherited(); err != nil || len(fds) != 0 {
		t.Errorf("the inherited descriptors are %v, %v; want none", fds, err)
	}
	cmd := exec.Command("sh", "-c", "ls /proc/$$/fd; true")
	if out, err := cmd.Output(); err != nil || string(out) != "0\n1\n2\n" {
		t.Errorf("a program has the descriptors %q, %v", out, err)
	}
}

func TestClose(t *testing.T) {
	keep, drop := inheritable(t), inheritable(t)
	own, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if err := Close(keep); err != nil {
		t.Fatal(err)
	}
	for fd, open := range map[int]bool{keep: true, drop: false, int(own.Fd()): true} {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); (err == nil) != open {
			t.Errorf("descriptor %d: open %v (%v), want %v", fd, err == nil, err, open)
		}
	}
}
