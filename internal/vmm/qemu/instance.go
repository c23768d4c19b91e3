package qemu

import (
	"context"
	"errors"
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
	"banger/internal/vmm"
	"banger/internal/vmm/console"
	"banger/internal/vmm/process"
	"banger/internal/vmm/qemu/qmp"
)

// instance is a machine that was started or adopted.
type instance struct {
	log     *slog.Logger
	s       state
	encoded vmm.State
	proc    *process.Process

	monitor    *qmp.Client // nil when it did not answer
	monitorErr error       // why
	serial     net.Conn    // the console; nil when it could not be reached
	seen       witness
	runLock    chan struct{} // holds one element while somebody may halt the machine or let it go on
	saving     atomic.Bool
	agent      agentPort

	group  sync.WaitGroup
	once   sync.Once
	closed chan struct{}
	ended  chan struct{} // closed when exit is set
	exit   vmm.Exit
}

var (
	_ vmm.Instance = (*instance)(nil)
	_ vmm.Resizer  = (*instance)(nil)
	_ vmm.Statter  = (*instance)(nil)
	_ vmm.Saver    = (*instance)(nil)
)

func (in *instance) State() vmm.State { return slices.Clone(in.encoded) }
func (in *instance) PID() int         { return in.proc.ID().PID }

// PowerOff presses the machine's ACPI power button. A machine that has ended is success.
func (in *instance) PowerOff(ctx context.Context) error {
	return in.command(ctx, "system_powerdown", nil)
}

// ResizeDrive tells the guest that a drive has grown: see vmm.Resizer.
func (in *instance) ResizeDrive(ctx context.Context, serial string, size model.Bytes) error {
	return in.command(ctx, "block_resize", map[string]any{"node-name": nodeName(serial), "size": int64(size)})
}

func (in *instance) command(ctx context.Context, name string, args any) error {
	select {
	case <-in.proc.Done():
		if name == "system_powerdown" {
			return nil
		}
	default:
	}
	if err := in.ask(ctx, name, args, nil); err != nil {
		return fmt.Errorf("machine %s: %w", in.s.ID, err)
	}
	return nil
}

// ask runs a command of the monitor and stores its result in answer, unless that is nil.
func (in *instance) ask(ctx context.Context, name string, args, answer any) error {
	select {
	case <-in.proc.Done():
		return fault.New(fault.WrongState, "it has ended")
	default:
	}
	if in.monitor == nil {
		return fault.New(fault.Unavailable, "telling QEMU %s: %w", name, in.monitorErr)
	}
	return in.monitor.Execute(ctx, name, args, answer)
}

// deaf tells whether nothing can be said to QEMU.
func (in *instance) deaf() bool {
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

// Signal sends QEMU a signal. SIGTERM ends it in an orderly way: what the guest has written reaches the files. After Close it is
// fault.Canceled.
func (in *instance) Signal(sig syscall.Signal) error {
	select {
	case <-in.closed:
		return fault.New(fault.Canceled, "signalling machine %s: let go of", in.s.ID)
	default:
	}
	in.seen.signalled(sig)
	return in.proc.Signal(sig)
}

// Wait waits for the machine's end. After Close it is fault.Canceled, unless the end was seen before.
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
		return vmm.Exit{}, fault.New(fault.Canceled, "waiting for machine %s: let go of", in.s.ID)
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

// Close lets go of the machine: see vmm.Instance. A Save that is at work fails, and the machine goes on.
func (in *instance) Close() error {
	in.once.Do(func() {
		close(in.closed)
		enough := time.NewTimer(contTimeout)
		defer enough.Stop()
		select {
		case in.runLock <- struct{}{}: // for ever
		case <-enough.C:
		}
		if in.monitor != nil {
			_ = in.monitor.Close()
		}
		if in.serial != nil {
			_ = in.serial.Close()
		}
		in.agent.close()
		_ = in.proc.Close()
	})
	in.group.Wait()
	return nil
}

// watch waits for the machine's end and says how it came.
func (in *instance) watch() {
	look := time.NewTicker(logPeriod)
	defer look.Stop()
	for running := true; running; {
		select {
		case <-in.proc.Done():
			running = false
		case <-in.closed:
			return
		case <-in.seen.boot.lost:
			in.bootAgain("the guest's kernel lost its timer")
		case <-look.C:
			if err := boundLog(in.s.VMMLog); err != nil {
				in.log.Warn("the VMM's log is not bounded", "error", err)
			}
		}
	}
	in.lastWords()
	select {
	case <-in.closed:
		return
	default:
	}
	status, known := in.proc.Status()
	in.exit = in.seen.verdict(status, known, func() string { return lastLines(in.s.VMMLog, 0) })
	in.log.Info("machine ended", "reason", in.exit.Reason, "detail", in.exit.Detail)
	close(in.ended)
}

// lastWords waits for what QEMU and its guest said last. It is on its way to our readers, who come to the end of it by themselves: nobody
// holds the other end any more.
func (in *instance) lastWords() {
	enough := time.NewTimer(endTimeout)
	defer enough.Stop()
	readers := []<-chan struct{}{in.seen.consoleEnd}
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

// QEMU sends every byte of the console by itself, so a guest that writes without end costs a wake-up for each. What goes beyond
// consoleRate on average and consoleBurst at once is taken up more slowly: with a pause of consolePace after each look, while which the
// bytes wait in the socket, and the guest for its serial port.
const (
	consoleBurst = 256 << 10 // bytes; several verbose boots
	consoleRate  = 32 << 10  // bytes a second
	consolePace  = time.Millisecond
)

// openConsole begins to copy the console to its log. A console that cannot be reached is worth a warning only.
func (in *instance) openConsole(ctx context.Context) error {
	in.seen.consoleEnd, in.seen.boot.lost = make(chan struct{}), make(chan struct{}, 1)
	if in.s.ConsoleLog == "" {
		close(in.seen.consoleEnd)
		return nil
	}
	log, err := console.Open(in.s.ConsoleLog, int64(in.s.ConsoleMax))
	if err != nil {
		close(in.seen.consoleEnd)
		return err
	}
	var dialer net.Dialer
	in.serial, err = dialer.DialContext(ctx, "unix", runPath(in.s, consoleSocket))
	if err != nil {
		in.log.Warn("console is out of reach", "error", err)
		close(in.seen.consoleEnd)
		return log.Close()
	}
	in.group.Go(func() {
		defer close(in.seen.consoleEnd)
		defer log.Close()
		in.copyConsole(log)
	})
	return nil
}

func (in *instance) copyConsole(log *console.Log) {
	buf := make([]byte, 32<<10)
	pause := time.NewTimer(consolePace)
	defer pause.Stop()
	credit, last := float64(consoleBurst), time.Now()
	var broken error
	for {
		n, err := in.serial.Read(buf)
		in.seen.console(buf[:n])
		if _, werr := log.Write(buf[:n]); werr != nil && broken == nil {
			broken = werr // a full disk must not stop the guest
			in.log.Warn("console is not logged", "error", werr)
		}
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				in.log.Debug("console ended", "error", err)
			}
			return
		}
		now := time.Now()
		credit = min(consoleBurst, credit+consoleRate*now.Sub(last).Seconds()) - float64(n)
		if last = now; credit > 0 {
			continue
		}
		pause.Reset(consolePace)
		select {
		case <-pause.C:
		case <-in.closed:
			return
		}
	}
}
