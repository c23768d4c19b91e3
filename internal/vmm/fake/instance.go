package fake

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vmm"
)

type instance struct {
	d *Driver
	m *machine

	once   sync.Once
	closed chan struct{}
}

var (
	_ vmm.FileHolder   = (*instance)(nil)
	_ vmm.HaltReporter = (*instance)(nil)
	_ vmm.Instance     = (*instance)(nil)
	_ vmm.Reacher      = (*instance)(nil)
	_ vmm.Resizer      = (*instance)(nil)
	_ vmm.Statter      = (*instance)(nil)
	_ vmm.Saver        = (*instance)(nil)
)

func (in *instance) State() vmm.State {
	return state{Version: 1, RunDir: in.m.RunDir, PID: in.m.pid}.encode()
}

func (in *instance) PID() int { return in.m.pid }

func (in *instance) DriveID(name string) string { return in.d.o.DriveID(name) }

// Others looks at the files that the machine has opened: see vmm.FileHolder.
func (in *instance) Others(paths ...string) (map[string]string, error) {
	if err := in.d.o.Fail(OpLook, in.m.ID); err != nil {
		return nil, err
	}
	return in.d.host.others(in.m, paths)
}

// Reach fails if a test wants that: see vmm.Reacher.
func (in *instance) Reach() error { return in.d.o.Fail(OpReach, in.m.ID) }

// DialAgent connects to Options.Agent by a pair of sockets, which ends with the machine.
func (in *instance) DialAgent(ctx context.Context) (net.Conn, error) {
	if err := in.d.o.Fail(OpDial, in.m.ID); err != nil {
		return nil, err
	}
	select {
	case <-in.m.ended:
		return nil, fault.New(fault.Unavailable, "machine %s has ended", in.m.ID)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	default:
	}
	host, guest, err := pair()
	if err != nil {
		return nil, err
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		defer guest.Close()
		in.d.o.Agent(in.m.Machine, guestConn{guest, in})
	}()
	go func() {
		select {
		case <-in.m.ended:
			_ = guest.Close()
		case <-served:
		}
	}()
	return host, nil
}

// guestConn is the guest's end of a connection. While the machine is halted, nothing happens there.
type guestConn struct {
	net.Conn
	in *instance
}

func (c guestConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.stall()
	return n, err
}

func (c guestConn) Write(p []byte) (int, error) {
	c.stall()
	return c.Conn.Write(p)
}

func (c guestConn) stall() {
	select {
	case <-c.in.d.host.running(c.in.m):
	case <-c.in.m.ended:
	}
}

// pair returns two connected sockets.
func pair() (a, b net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("connecting: %w", err)
	}
	var conns [2]net.Conn
	var errs [2]error
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "agent")
		conns[i], errs[i] = net.FileConn(f)
		_ = f.Close()
	}
	return conns[0], conns[1], errors.Join(errs[:]...)
}

func (in *instance) PowerOff(ctx context.Context) error {
	if err := errors.Join(in.d.o.Fail(OpPowerOff, in.m.ID), ctx.Err()); err != nil {
		return err
	}
	if !in.d.o.IgnorePowerButton {
		in.d.host.press(in.m, vmm.Exit{Reason: in.shutdownReason()})
	}
	return nil
}

// shutdownReason is why the machine ends when its guest heeds the power button.
func (in *instance) shutdownReason() vmm.ExitReason {
	switch {
	case !in.d.o.Info.Features.Has(vmm.FeatureTellsReboot):
		return vmm.ExitShutdown
	case in.d.o.Reboots(in.m.Machine):
		return vmm.ExitReboot
	}
	return vmm.ExitPowerOff
}

// Signal ends the machine, unless the signal is 0.
func (in *instance) Signal(sig syscall.Signal) error {
	if err := in.d.o.Fail(OpSignal, in.m.ID); err != nil {
		return err
	}
	if sig != 0 {
		in.d.host.end(in.m, vmm.Exit{Reason: vmm.ExitKilled, Detail: unix.SignalName(sig)})
	}
	return nil
}

func (in *instance) Wait(ctx context.Context) (vmm.Exit, error) {
	select {
	case <-in.m.ended:
		return in.m.exit, nil
	default:
	}
	select {
	case <-in.m.ended:
		return in.m.exit, nil
	case <-in.closed:
		return vmm.Exit{}, fault.New(fault.Canceled, "waiting for machine %s: its instance is closed", in.m.ID)
	case <-ctx.Done():
		return vmm.Exit{}, fmt.Errorf("waiting for machine %s: %w", in.m.ID, context.Cause(ctx))
	}
}

func (in *instance) Close() error {
	in.once.Do(func() { close(in.closed) })
	return nil
}

// ResizeDrive only checks that the machine has such a drive.
func (in *instance) ResizeDrive(_ context.Context, name string, _ model.Bytes) error {
	if err := in.d.o.Fail(OpResize, in.m.ID); err != nil {
		return err
	}
	for _, d := range in.m.Drives {
		if d.Name == name {
			return nil
		}
	}
	return fault.New(fault.NotFound, "machine %s has no drive %s", in.m.ID, name)
}

func (in *instance) Stats() (vmm.Stats, error) { return vmm.Stats{Memory: in.m.Memory}, nil }
