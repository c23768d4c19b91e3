// Package output bounds the log of what a VMM prints, whether or not a daemon runs.
//
// A guest can make its VMM complain without end. A file that the VMM appends to would fill the
// disk while no daemon is there to cut it. So the VMM prints into a pipe, and a process of its own
// copies from there to the log. This writer ends when the VMM has ended, because the pipe has no
// other end then. The log has the form of package console: two files, of which the newer one has
// the last words.
//
// The VMM never waits for the writer: if the pipe is full, or the writer is gone, the VMM's output
// is dropped.
//
// The writer is a few system calls in machine code, because a machine should not cost another
// megabyte. A host that does not run it (vm.memfd_noexec) gets a file, which the caller bounds.
package output

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"banger/internal/regular"
	"banger/internal/vmm/console"
	"banger/internal/vmm/process"
)

// Max is the bound of a log with both of its files.
const Max = 2 * half

// pipeSize is how much of a VMM's output waits for the writer at most, in bytes.
const pipeSize = 256 << 10

// Output is the log of a VMM that is being started.
type Output struct {
	File *os.File // the VMM's standard output and error
	End  int64    // where in the log the VMM's output begins
	// Writer has written everything when it ends, after the last copy of File is closed. Nil: File
	// is the log itself.
	Writer *process.Process
}

// KeptFD is the descriptor by which the writer keeps a file open: see Open.
const KeptFD = 2

// Open opens the log at path for a VMM. If keep is not nil, the writer keeps this file open as its
// descriptor KeptFD until the VMM has ended. Every process of the user may take it from there.
func Open(path string, keep *os.File) (*Output, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("opening the VMM's log: %w", err)
	}
	log, err := regular.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the VMM's log: %w", err)
	}
	out := &Output{File: log}
	if out.End, err = log.Seek(0, io.SeekEnd); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the VMM's log: %w", err), log.Close())
	}
	if pipe, writer, err := start(log, path, keep); err == nil {
		_ = log.Close()
		out.File, out.Writer = pipe, writer
	}
	return out, nil
}

// Close closes the VMM's end, and waits until the writer has written everything or ctx has ended.
func (o *Output) Close(ctx context.Context) error {
	_ = o.File.Close() // the caller may have closed it
	if o.Writer == nil {
		return nil
	}
	return errors.Join(o.Writer.Wait(ctx), o.Writer.Close())
}

// start starts a writer for a log, and returns the end of its pipe that a VMM writes to.
func start(log *os.File, path string, keep *os.File) (*os.File, *process.Process, error) {
	program, err := executable()
	if err != nil {
		return nil, nil, err
	}
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("making a pipe for the VMM's log: %w", err)
	}
	from := os.NewFile(uintptr(ends[0]), "pipe")
	defer from.Close()
	if err := unix.SetNonblock(ends[1], true); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("making a pipe for the VMM's log: %w", err), unix.Close(ends[1]))
	}
	to := os.NewFile(uintptr(ends[1]), "pipe")
	// More room, so that little is dropped while the host is busy. A user's pipes have a bound
	// together: beyond it, the room stays as it is.
	_, _ = unix.FcntlInt(to.Fd(), unix.F_SETPIPE_SZ, pipeSize)
	files := []*os.File{from, log}
	if keep != nil {
		files = append(files, keep)
	}
	writer, err := process.Spawn(process.Spec{
		Path: "/proc/self/fd/" + strconv.Itoa(int(program.Fd())), Name: "banger-output", Args: []string{path, console.Old(path)}, Dir: "/",
		Files: files,
	})
	if err != nil {
		return nil, nil, errors.Join(err, to.Close())
	}
	return to, writer, nil
}

// executable returns the writer's program as a file without a name, which stays open.
var executable = sync.OnceValues(func() (*os.File, error) {
	program := writer()
	if program == nil {
		return nil, errors.ErrUnsupported
	}
	fd, err := unix.MemfdCreate("banger-output", unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // Linux before 6.3
		fd, err = unix.MemfdCreate("banger-output", unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, fmt.Errorf("making the writer of logs: %w", err)
	}
	f := os.NewFile(uintptr(fd), "banger-output")
	defer f.Close()
	if _, err := f.Write(program); err != nil {
		return nil, fmt.Errorf("making the writer of logs: %w", err)
	}
	// A file that is open for writing does not run.
	return os.Open("/proc/self/fd/" + strconv.Itoa(fd))
})
