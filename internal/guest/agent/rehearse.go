package agent

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// rehearse runs a program that does nothing, beside what the host asks for next.
//
// An emulator translates code when it runs for the first time, and forgets it with its process. So in a restored machine the first command costs far more
// than any later one, and nearly all of that is the kernel's way from clone(2) through execve(2) to exit(2). While the machine becomes the next one, which keeps
// one CPU busy, another can as well go that way once. What runs is the agent's own; no user and no file of the guest's is looked up for it. (Who was root in a
// machine before it was saved can have a part in it all the same, as by binfmt_misc.)
//
// It gives way to whoever must be alone: see stage.
func (a *agent) rehearse() {
	if !a.stage.TryLock() {
		return
	}
	defer a.stage.Unlock()
	if err := a.runNothing(); err != nil {
		a.log.Debug("no rehearsal", "error", err)
		return
	}
	a.mark("rehearsed")
}

// runNothing starts the program called nothing, which ends by itself.
func (a *agent) runNothing() error {
	program, err := newProgram()
	if err != nil {
		return fmt.Errorf("making a program: %w", err)
	}
	defer program.Close()
	if _, err := program.WriteString(nothing); err != nil {
		return fmt.Errorf("making a program: %w", err)
	}
	fd := program.Fd()
	attr := &syscall.ProcAttr{Dir: "/", Files: []uintptr{fd, fd, fd}, Sys: &syscall.SysProcAttr{Setsid: true}}
	if os.Geteuid() == 0 {
		attr.Sys.Credential = &syscall.Credential{} // as commands have
	}
	_, err = a.procs.Spawn("/proc/self/fd/"+strconv.Itoa(int(fd)), []string{"nothing"}, attr)
	return err
}

// newProgram makes a file without a name that can be executed. MFD_EXEC is needed where sysctl vm.memfd_noexec is set, and unknown before Linux 6.3.
func newProgram() (*os.File, error) {
	fd, err := unix.MemfdCreate("nothing", unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate("nothing", unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "nothing"), nil
}
