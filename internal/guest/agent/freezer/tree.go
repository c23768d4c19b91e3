package freezer

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// tree is the descriptor of a folder of control groups. Its methods make as few system calls as can be: a parent stands still while it
// is being saved, and package os makes twice as many, which in an emulated machine are milliseconds.
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

// write writes to a file that is there: a control group's files cannot be made.
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

// groups lists the groups in a group: its folders.
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
		names = append(names, folders(buf[:n])...)
	}
}

// Parts of struct linux_dirent64 (getdents(2)).
const (
	direntLen  = 16
	direntType = 18
	direntName = 19
)

// folders are the names of folders among directory entries.
func folders(b []byte) []string {
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
	text, _ := t.read(name + "/cgroup.procs") // unreadable in a threaded group; its processes are listed above it
	pids := numbers(text)
	var st unix.Stat_t
	if err := unix.Fstatat(int(t), name, &st, 0); err != nil || st.Nlink <= 2 { // as many links as folders, and two
		return pids
	}
	below, _ := t.groups(name)
	for _, b := range below {
		pids = append(pids, t.processes(name+"/"+b)...)
	}
	return pids
}

// waiting names, for a person, a process in a group that cannot be frozen just now, if there is one: it waits for a device or a file system.
func (t tree) waiting(name string) string {
	for _, pid := range t.processes(name) {
		if st, ok := readStat(pid); ok && st.state == 'D' {
			return fmt.Sprintf(" (process %d, %q, waits for a device or a file system)", pid, st.name)
		}
	}
	return ""
}

// eventTime bounds one wait in milliseconds. The kernel holds an event back for up to 10 ms when there was another one shortly before
// (kernel/cgroup/cgroup.c, CGROUP_FILE_NOTIFY_MIN_INTV), as when a command has just ended.
const eventTime = 2

// awaitFrozen waits until everybody in a group and below it stands still. The kernel says so by an event on the file.
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
