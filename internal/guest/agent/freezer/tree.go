package freezer

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// tree is the descriptor of a directory of control groups. It makes as few system calls as
// possible, because a machine is halted meanwhile. Package os makes twice as many, which takes
// milliseconds in emulation.
type tree int

func (t tree) open(name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(int(t), name, flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// read reads a whole file.
func (t tree) read(name string) ([]byte, error) {
	fd, err := t.open(name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	text := make([]byte, 0, 4<<10)
	for {
		n, err := unix.Read(fd, text[len(text):cap(text)])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return text, err
		}
		text = text[:len(text)+n]
		if len(text) == cap(text) {
			text = append(text, 0)[:len(text)]
		}
	}
}

// write writes to an existing file: a control group's files cannot be made.
func (t tree) write(name, text string) error {
	fd, err := t.open(name, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for {
		_, err := unix.Write(fd, []byte(text))
		if err != unix.EINTR {
			return err
		}
	}
}

// groups lists the groups in a group, which are its directories.
func (t tree) groups(name string) ([]string, error) {
	fd, err := t.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var names []string
	buf := make([]byte, 16<<10)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return names, err
		}
		names = append(names, directories(buf[:n])...)
	}
}

// Parts of struct linux_dirent64 (getdents(2)).
const (
	direntLen  = 16
	direntType = 18
	direntName = 19
)

// directories returns the names of directories among directory entries.
func directories(b []byte) []string {
	var names []string
	for len(b) > direntName {
		size := int(binary.NativeEndian.Uint16(b[direntLen:]))
		if size <= direntName || size > len(b) {
			break
		}
		name, _, _ := bytes.Cut(b[direntName:size], []byte{0})
		if b[direntType] == unix.DT_DIR && string(name) != "." && string(name) != ".." {
			names = append(names, string(name))
		}
		b = b[size:]
	}
	return names
}

// processes lists the processes in a group and below it.
func (t tree) processes(name string) []int {
	// The file is unreadable in a threaded group. Its processes are listed in the group above.
	text, _ := t.read(name + "/cgroup.procs")
	pids := numbers(text)
	var st unix.Stat_t
	// A directory has two links more than subdirectories.
	if err := unix.Fstatat(int(t), name, &st, 0); err != nil || st.Nlink <= 2 {
		return pids
	}
	below, _ := t.groups(name)
	for _, b := range below {
		pids = append(pids, t.processes(name+"/"+b)...)
	}
	return pids
}

// waiting names a process that keeps a group from freezing because it waits for a device or a file
// system. It returns "" if there is none.
func (t tree) waiting(name string) string {
	for _, pid := range t.processes(name) {
		if st, ok := readStat(pid); ok && st.state == 'D' {
			return fmt.Sprintf(" (process %d, %q, waits for a device or a file system)", pid, st.name)
		}
	}
	return ""
}

// eventTime bounds one wait, in milliseconds. The kernel delays an event by up to 10 ms after
// another one (kernel/cgroup/cgroup.c, CGROUP_FILE_NOTIFY_MIN_INTV), such as the end of a command.
const eventTime = 2

// awaitFrozen waits until all processes in a group and below it are halted. The kernel reports that
// by an event on the file.
func (t tree) awaitFrozen(ctx context.Context, name string) error {
	fd, err := t.open(name+"/cgroup.events", unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var buf [256]byte
	for {
		n, err := unix.Pread(fd, buf[:], 0)
		switch {
		case err != nil && err != unix.EINTR:
			return err
		case bytes.Contains(buf[:max(n, 0)], []byte("frozen 1\n")):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, eventTime); err != nil && err != unix.EINTR {
			return fmt.Errorf("waiting for an event: %w", err)
		}
	}
}
