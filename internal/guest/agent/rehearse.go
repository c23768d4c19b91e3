package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// rehearsal makes the first command of a restored machine fast.
type rehearsal struct {
	log       *slog.Logger
	marks     *marks
	processes *processes
}

// rehearse runs a program that does nothing while the host's next requests are served. In a
// restored machine under emulation the first command is slower than all later ones; this makes it
// about as fast. docs/internals/boot.md has the reason. Other users of spawn come first.
func (s *rehearsal) rehearse() {
	if !s.processes.spawn.TryLock() {
		return
	}
	defer s.processes.spawn.Unlock()
	if err := s.runNoop(); err != nil {
		s.log.Debug("no rehearsal", "error", err)
		return
	}
	s.marks.add("rehearsed")
}

// runNoop starts a program that ends at once. It is the agent's own: no file or user of the guest
// takes part.
func (s *rehearsal) runNoop() error {
	program, err := newProgram()
	if err != nil {
		return fmt.Errorf("making a program: %w", err)
	}
	defer program.Close()
	if _, err := program.WriteString(noopProgram); err != nil {
		return fmt.Errorf("making a program: %w", err)
	}
	fd := program.Fd()
	attr := &syscall.ProcAttr{Dir: "/", Files: []uintptr{fd, fd, fd}, Sys: &syscall.SysProcAttr{Setsid: true}}
	if os.Geteuid() == 0 {
		attr.Sys.Credential = &syscall.Credential{} // as commands have
	}
	_, err = s.processes.table.Spawn("/proc/self/fd/"+strconv.Itoa(int(fd)), []string{"nothing"}, attr)
	return err
}

// newProgram makes an executable file without a name. Sysctl vm.memfd_noexec requires MFD_EXEC,
// which kernels before 6.3 do not know.
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
