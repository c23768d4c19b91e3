package agent

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/proto"
)

// rehearsalTime is how long a rehearsal may take. It is a matter of milliseconds, some tens in emulation.
const rehearsalTime = 5 * time.Second

// rehearse runs a program that does nothing, beside what the host asks for next.
//
// An emulator translates code when it runs for the first time, and forgets it with its process. So in a restored machine the first command costs far more
// than any later one, and nearly all of that is the kernel's way from clone(2) through execve(2) to exit(2). While the machine becomes the next one, which keeps
// one CPU busy, another can as well go that way once. What runs is the agent's own: no file of the guest's has a part in it.
func (a *agent) rehearse() {
	if err := a.runNothing(); err != nil {
		a.log.Debug("no rehearsal", "error", err)
		return
	}
	a.mark("rehearsed")
}

// runNothing runs the program called nothing, to its end.
func (a *agent) runNothing() error {
	fd, err := unix.MemfdCreate("nothing", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("making a program: %w", err)
	}
	program := os.NewFile(uintptr(fd), "nothing")
	defer program.Close()
	if _, err := program.WriteString(nothing); err != nil {
		return fmt.Errorf("making a program: %w", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	ctx, cancel := context.WithTimeout(context.Background(), rehearsalTime)
	defer cancel()
	return a.runner().RunHook(ctx, proto.ExecRequest{Argv: []string{"/proc/self/fd/" + strconv.Itoa(fd)}, User: "0:0", Workdir: "/"}, null)
}
