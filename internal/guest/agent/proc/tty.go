package proc

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/guest/proto"
)

// startTTY starts a command on a terminal that it controls. Standard output gets its output and the
// terminal's echo.
func (r *Runner) startTTY(c *command, size *proto.Size, s Streams) (Process, error) {
	if s.Stdout == nil {
		s.Stdout = io.Discard
	}
	master, slave, err := openTerminal(c.attr.Sys.Credential)
	if err != nil {
		return nil, err
	}
	defer slave.Close()
	p := &process{table: r.Table, terminal: master, output: make(chan struct{})}
	if size != nil {
		if err := p.Resize(*size); err != nil {
			master.Close()
			return nil, err
		}
	}
	c.attr.Sys.Setctty = true
	c.attr.Sys.Ctty = 0 // the child's standard input
	p.child, err = r.run(c, [3]*os.File{slave, slave, slave})
	if err != nil {
		master.Close()
		return nil, err
	}
	if s.Stdin != nil {
		// The end of the input is not the terminal's end: nothing more is typed.
		go io.Copy(onlyWriter{master}, onlyReader{s.Stdin})
	}
	go func() {
		// Reading ends with EIO after the last process has closed the terminal (drivers/tty/pty.c).
		output{master, s.Stdout}.deliver(p.child.done)
		<-p.child.done
		close(p.output)
	}()
	return p, nil
}

// openTerminal makes a terminal (pty(7)) that belongs to the user of the command.
func openTerminal(owner *syscall.Credential) (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a terminal: %w", err)
	}
	// It is non-blocking, so the runtime polls it and reads take deadlines.
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	slave, err = openSlave(fd, owner)
	if err != nil {
		master.Close()
		return nil, nil, fmt.Errorf("making a terminal: %w", err)
	}
	return master, slave, nil
}

func openSlave(master int, owner *syscall.Credential) (*os.File, error) {
	n, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		return nil, err
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return nil, err
	}
	fd, err := unix.Open("/dev/pts/"+strconv.Itoa(n), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	slave := os.NewFile(uintptr(fd), "terminal")
	if owner != nil {
		// The terminal keeps the group tty that devpts gave it, for write(1).
		err = slave.Chown(int(owner.Uid), -1)
	}
	if err != nil {
		slave.Close()
		return nil, err
	}
	return slave, nil
}

// Resize sets the terminal's size. The kernel sends SIGWINCH to its foreground.
func (p *process) Resize(size proto.Size) error {
	if p.terminal == nil {
		return nil
	}
	raw, err := p.terminal.SyscallConn()
	if err != nil {
		return fmt.Errorf("resizing the terminal: %w", err)
	}
	var ioErr error
	err = raw.Control(func(fd uintptr) {
		ioErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Cols})
	})
	if err != nil {
		return nil // it is closed: the command has ended
	}
	if ioErr != nil {
		return fmt.Errorf("resizing the terminal: %w", ioErr)
	}
	return nil
}
