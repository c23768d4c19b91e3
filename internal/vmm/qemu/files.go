package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/regular"
	"banger/internal/socket"
	"banger/internal/vmm"
	"banger/internal/vmm/output"
	"banger/internal/vmm/process"
)

// The names of the files in a machine's RunDir.
const (
	lockName      = "lock"   // paths.LockIn: package home looks whether it is held
	frozenName    = "frozen" // exists while Freeze stops the process
	qmpSocket     = "qmp.sock"
	agentSocket   = "agent.sock"
	consoleSocket = "console.sock" // the longest
)

// Package output bounds QEMU's log. Where it cannot, and for a machine that an older version
// started, QEMU appends to the log by itself: then a log larger than maxVMMLog is emptied at a
// start and every logPeriod.
const (
	maxVMMLog = output.Max
	logPeriod = 10 * time.Second
)

// boundLog empties a log that has grown too large. An empty path means that there is no log.
func boundLog(path string) error {
	if path == "" {
		return nil
	}
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxVMMLog {
		err = os.Truncate(path, 0)
	}
	return err
}

// files are the files that a machine's process inherits, and those made for it in the RunDir.
type files struct {
	list   []*os.File // descriptors from 0 on
	made   []string
	output *output.Output // nil: the machine has it

	wire     int      // QEMU's descriptor of the NICWire; 0: there is none
	hostWire *os.File // the host's end of it; nil: there is none, or the machine has it
}

// openFiles makes them. from is nil for a machine that boots. An error leaves nothing.
func openFiles(ctx context.Context, m vmm.Machine, from *vmm.Checkpoint) (_ *files, err error) {
	f := &files{}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.remove())
			f.close()
		}
	}()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("opening standard input: %w", err)
	}
	f.list = append(f.list, null)
	if err := boundLog(m.VMMLog); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("bounding the VMM's log: %w", err)
	}
	var guestWire *os.File
	if hasWire(m) {
		if guestWire, f.hostWire, err = makeWire(); err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				_ = guestWire.Close()
			}
		}()
	}
	if f.output, err = output.Open(m.VMMLog, f.hostWire); err != nil {
		return nil, err
	}
	f.list = append(f.list, f.output.File, f.output.File)
	lock, err := process.Lock(filepath.Join(m.RunDir, lockName))
	if err != nil {
		return nil, err
	}
	f.list = append(f.list, lock)
	f.made = append(f.made, lock.Name())
	for _, name := range []string{qmpSocket, agentSocket, consoleSocket} {
		s, err := listen(filepath.Join(m.RunDir, name))
		if err != nil {
			return nil, err
		}
		f.list = append(f.list, s)
		f.made = append(f.made, s.Name())
	}
	if from != nil {
		if err := f.inherit(ctx, from, m.Memory); err != nil {
			return nil, err
		}
	} else if len(m.Initramfs) > 1 {
		joined, err := join(m.Initramfs)
		if err != nil {
			return nil, err
		}
		f.list = append(f.list, joined)
	}
	if guestWire != nil {
		f.wire = len(f.list)
		f.list = append(f.list, guestWire)
	}
	return f, nil
}

// initrd is the path by which QEMU opens the machine's one initramfs.
func initrd(m vmm.Machine) string {
	if len(m.Initramfs) == 1 {
		return m.Initramfs[0]
	}
	return inherited(initrdFD)
}

// close closes our copies, and waits for the writer of a log that no machine has got.
func (f *files) close() {
	for _, file := range f.list {
		_ = file.Close() // the log is there twice
	}
	if f.hostWire != nil {
		_ = f.hostWire.Close()
	}
	if f.output != nil {
		ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
		defer cancel()
		_ = f.output.Close(ctx)
	}
}

// remove removes what was made in the RunDir. The lock goes last: it proves that nothing runs here.
func (f *files) remove() error {
	var errs []error
	for i := len(f.made) - 1; i >= 0; i-- {
		if err := os.Remove(f.made[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("removing the files of a machine: %w", err))
		}
	}
	return errors.Join(errs...)
}

// listen makes a listening unix socket that only its owner may connect to. Linux takes the mode of
// the socket's file from the socket itself, so the mode is never wider. It replaces the socket of
// an earlier run: the lock proves that no one uses that.
func listen(path string) (*os.File, error) {
	const backlog = 8
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("replacing a socket: %w", err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("making the socket %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	if err := unix.Fchmod(fd, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("making the socket %s: %w", path, err), f.Close())
	}
	bind := func(short string) error { return unix.Bind(fd, &unix.SockaddrUnix{Name: short}) }
	if err := socket.Reach(path, bind); err != nil {
		return nil, errors.Join(fmt.Errorf("making the socket %s: %w", path, err), f.Close())
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return nil, errors.Join(fmt.Errorf("listening on %s: %w", path, err), f.Close(), os.Remove(path))
	}
	return f, nil
}

// join concatenates archives into a file without a name. QEMU takes one initramfs, and maps it as
// long as it runs. So each machine pays for a joined one with memory of its own. If the caller
// joins them once, all machines share the file.
func join(paths []string) (_ *os.File, err error) {
	fd, err := unix.MemfdCreate("initramfs", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("joining the initramfs: %w", err)
	}
	out := os.NewFile(uintptr(fd), "initramfs")
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("joining the initramfs: %w", err), out.Close())
		}
	}()
	for _, path := range paths {
		if err := appendFile(out, path); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// appendFile copies a file. A newc archive begins at a multiple of four bytes
// (Documentation/driver-api/early-userspace/buffer-format.rst).
func appendFile(out *os.File, path string) error {
	in, err := regular.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	n, err := io.Copy(out, in)
	if err != nil {
		return err
	}
	if pad := -n & 3; pad != 0 {
		_, err = out.Write(make([]byte, pad))
	}
	return err
}
