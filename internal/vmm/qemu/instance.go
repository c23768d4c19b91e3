package qemu

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/oplock"
	"banger/internal/step"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
	"banger/internal/vmm/qemu/qmp"
)

// instance is a machine that was started or adopted.
type instance struct {
	wirePort

	log     *slog.Logger
	s       state
	encoded vmm.State
	proc    *process.Process
	writer  *process.Process // of QEMU's log; nil if it is not a child of this process

	monitor    *qmp.Client // nil if it did not answer
	monitorErr error       // why
	serial     net.Conn    // the console; nil if it could not be reached
	seen       witness
	runLock    chan struct{} // holds an element while someone may halt or continue the machine
	saving     atomic.Bool
	agent      agentPort

	group  sync.WaitGroup
	once   sync.Once
	closed chan struct{}
	ended  chan struct{} // closed when exit is set
	exit   vmm.Exit
}

var (
	_ vmm.Confined     = (*instance)(nil)
	_ vmm.FileHolder   = (*instance)(nil)
	_ vmm.Freezer      = (*instance)(nil)
	_ vmm.HaltReporter = (*instance)(nil)
	_ vmm.Instance     = (*instance)(nil)
	_ vmm.Reacher      = (*instance)(nil)
	_ vmm.Resizer      = (*instance)(nil)
	_ vmm.Statter      = (*instance)(nil)
	_ vmm.Saver        = (*instance)(nil)
	_ vmm.Wired        = (*instance)(nil)
)

func (in *instance) State() vmm.State { return slices.Clone(in.encoded) }
func (in *instance) PID() int         { return in.proc.ID().PID }

// Protection is what QEMU was started with: see vmm.Confined.
func (in *instance) Protection() model.Protection { return in.s.Protection }

// DriveID returns the name: it is the serial number that the command line gives to the drive.
func (in *instance) DriveID(name string) string { return name }

// Others looks at QEMU's open files: see vmm.FileHolder. QEMU opens each drive by its path, once.
func (in *instance) Others(paths ...string) (map[string]string, error) {
	return in.proc.Others(paths...)
}

// PowerOff presses the machine's ACPI power button. If the machine has ended, or ends before QEMU
// answers, this is no error.
func (in *instance) PowerOff(ctx context.Context) error {
	err := in.command(ctx, "system_powerdown", nil)
	select {
	case <-in.proc.Done():
		return nil
	default:
		return err
	}
}

// ResizeDrive reports to the guest that a drive has grown: see vmm.Resizer.
func (in *instance) ResizeDrive(ctx context.Context, name string, size model.Bytes) error {
	return in.command(ctx, "block_resize", map[string]any{"node-name": nodeName(name), "size": int64(size)})
}

func (in *instance) command(ctx context.Context, name string, args any) error {
	if err := in.ask(ctx, name, args, nil); err != nil {
		return fmt.Errorf("machine %s: %w", in.s.ID, err)
	}
	return nil
}

const (
	// monitorTimeout bounds a command of the monitor. Without it, a QEMU that stands still would
	// keep operations on its VM waiting for ever. Halting may have to wait for a slow disk.
	monitorTimeout = time.Minute
	// dumpTimeout bounds a command that writes the guest's memory.
	dumpTimeout = 30 * time.Minute
)

// ask runs a command of the monitor. If answer is not nil, it stores the result there.
func (in *instance) ask(ctx context.Context, name string, args, answer any) error {
	return prompt(ctx, in, name, func(ctx context.Context) error { return in.monitor.Execute(ctx, name, args, answer) })
}

// prompt is asking for a command that QEMU answers soon. If QEMU stands still, the daemon's end
// does not wait for it.
func prompt(ctx context.Context, in *instance, name string, do func(context.Context) error) error {
	defer oplock.AwaitGuest(ctx)()
	return asking(ctx, in, monitorTimeout, name, do)
}

// asking calls do, which runs a command of the monitor within a time.
func asking(ctx context.Context, in *instance, limit time.Duration, name string, do func(context.Context) error) error {
	select {
	case <-in.proc.Done():
		return over(in.proc)
	default:
	}
	if in.monitor == nil {
		return unreachable(in, fault.New(fault.Unavailable, "sending %s to QEMU: %w", name, in.monitorErr))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fault.New(fault.Unavailable, "QEMU did not answer within %v", limit).
		WithHint("It may stand still. `banger vm kill` ends it."))
	defer cancel()
	defer step.Waiting(ctx, "answer of QEMU", limit)()
	if err := do(ctx); err != nil {
		return in.explain(name, err)
	}
	return nil
}

// goneTimeout bounds the wait for the end of a process. Its memory and its monitor end first.
const goneTimeout = time.Second

// explain replaces the error of a command if the reason is that the machine has ended, that this
// process has closed the instance, or that QEMU takes no commands any more.
func (in *instance) explain(name string, err error) error {
	select {
	case <-in.closed: // after the end, if the machine has ended
	case <-in.monitor.Done():
		if !endsSoon(in.proc) {
			return fault.New(fault.Unavailable, "%w", err)
		}
	default:
		return err
	}
	return fmt.Errorf("sending %s to QEMU: %w", name, over(in.proc))
}

// endsSoon waits for the end of a process that shows signs of it, and reports whether it came.
func endsSoon(proc *process.Process) bool {
	enough := time.NewTimer(goneTimeout)
	defer enough.Stop()
	select {
	case <-proc.Done():
		return true
	case <-enough.C:
		return false
	}
}

// over returns why an instance that has ended or was closed does nothing any more.
func over(proc *process.Process) error {
	select {
	case <-proc.Done(): // a machine that has ended is closed as well
		return fault.New(fault.WrongState, "the machine has ended")
	default:
		return errClosed
	}
}

// deaf reports whether QEMU takes no commands.
func deaf(in *instance) bool {
	if in.monitor == nil {
		return true
	}
	select {
	case <-in.monitor.Done():
		return true
	default:
		return false
	}
}

// Signal sends a signal to QEMU. SIGTERM ends it in order: all that the guest has written reaches
// the files. After Close the error is fault.Canceled.
func (in *instance) Signal(sig syscall.Signal) error {
	select {
	case <-in.closed:
		return fault.New(fault.Canceled, "signalling machine %s: the instance is closed", in.s.ID)
	default:
	}
	in.seen.signalled(sig)
	return in.proc.Signal(sig)
}

// Wait waits for the machine's end. After Close the error is fault.Canceled, unless the end was
// seen before.
func (in *instance) Wait(ctx context.Context) (vmm.Exit, error) {
	select {
	case <-in.ended:
		return in.exit, nil
	default:
	}
	select {
	case <-in.ended:
		return in.exit, nil
	case <-in.closed:
		return vmm.Exit{}, fault.New(fault.Canceled, "waiting for machine %s: the instance is closed", in.s.ID)
	case <-ctx.Done():
		return vmm.Exit{}, fmt.Errorf("waiting for machine %s: %w", in.s.ID, context.Cause(ctx))
	}
}

// Stats measures QEMU's process.
func (in *instance) Stats() (vmm.Stats, error) {
	u, err := in.proc.Usage()
	if err != nil {
		return vmm.Stats{}, fmt.Errorf("measuring machine %s: %w", in.s.ID, err)
	}
	return vmm.Stats{CPU: u.CPU, Memory: model.Bytes(u.PSS)}, nil
}

// Close is vmm.Instance.Close. A Save that is under way fails, and the machine continues.
func (in *instance) Close() error {
	in.once.Do(func() {
		close(in.closed)
		enough := time.NewTimer(contTimeout)
		defer enough.Stop()
		select {
		case in.runLock <- struct{}{}: // and never releases it
		case <-enough.C:
		}
		if in.monitor != nil {
			_ = in.monitor.Close()
		}
		if in.serial != nil {
			_ = in.serial.Close()
		}
		in.agent.close()
		in.wirePort.close()
		_ = in.proc.Close()
		if in.writer != nil {
			_ = in.writer.Close()
		}
	})
	in.group.Wait()
	return nil
}

// watch waits for the machine's end and finds out how it ended.
func (in *instance) watch() {
	look := time.NewTicker(logPeriod)
	defer look.Stop()
	for running := true; running; {
		select {
		case <-in.proc.Done():
			running = false
		case <-in.closed:
			return
		case <-in.seen.lost:
			bootWatch{in}.reset("the guest's kernel lost its timer")
		case <-look.C:
			if err := boundLog(in.s.VMMLog); err != nil {
				in.log.Warn("the VMM's log could not be bounded", "error", err)
			}
		}
	}
	lastWords(in)
	select {
	case <-in.closed:
		return
	default:
	}
	status, known := in.proc.Status()
	in.exit = in.seen.verdict(status, known, func() string { return lastLines(in.s.VMMLog, 0) })
	if starved(in.exit, status, known) {
		if full := fullBase(in.s.BaseDir); full != "" {
			in.exit.Full, in.exit.Detail = true, "the file system of its memory is full: "+full
		}
	}
	in.log.Info("machine ended", "reason", in.exit.Reason, "detail", in.exit.Detail)
	close(in.ended)
}

// lastWords waits until the readers of log, console and monitor have read all that is left.
// They reach the end by themselves, because the process has closed the other end.
func lastWords(in *instance) {
	enough := time.NewTimer(endTimeout)
	defer enough.Stop()
	readers := []<-chan struct{}{in.seen.consoleEnd}
	if in.writer != nil {
		readers = append(readers, in.writer.Done())
	}
	if in.monitor != nil {
		readers = append(readers, in.monitor.Done())
	}
	for _, done := range readers {
		select {
		case <-done:
		case <-in.closed:
			return
		case <-enough.C:
			return
		}
	}
}
