package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/vmm"
	"banger/internal/vmm/output"
	"banger/internal/vmm/process"
)

// hasWire reports whether a machine has a NICWire.
func hasWire(m vmm.Machine) bool {
	return slices.ContainsFunc(m.NICs, func(n vmm.NIC) bool { return n.Kind == vmm.NICWire })
}

// wireBuffer is how many bytes may wait in each direction of a NICWire. The host may allow less.
const wireBuffer = 1 << 20

// makeWire makes both ends of a NICWire. QEMU makes its own one non-blocking.
func makeWire() (guest, host *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making the machine's network: %w", err)
	}
	for _, fd := range fds { // the kernel may grant less, which costs speed
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, wireBuffer)
	}
	return os.NewFile(uintptr(fds[0]), "wire"), os.NewFile(uintptr(fds[1]), "wire"), nil
}

// wirePort is the host's end of a machine's NICWire.
type wirePort struct {
	id     string      // of the machine
	made   *os.File    // nil: an adopted machine, or one without a NICWire
	holder *process.ID // keeps the end open; nil: nobody does
}

// Wire returns a copy of the host's end: see vmm.Wired. Of an adopted machine, the process that
// writes its log has it.
func (w *wirePort) Wire() (*os.File, error) {
	wire, err := w.take()
	if err != nil {
		return nil, fmt.Errorf("connecting to the network card of machine %s: %w", w.id, err)
	}
	return wire, nil
}

func (w *wirePort) take() (*os.File, error) {
	if w.made != nil {
		fd, err := unix.FcntlInt(w.made.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), "wire"), nil
	}
	if w.holder == nil {
		return nil, fault.New(fault.Unavailable, "no process is known that keeps the connection").
			WithHint("Restart the VM.")
	}
	holder, err := process.Open(*w.holder)
	if err != nil {
		return nil, err
	}
	defer holder.Close()
	return holder.Take(output.KeptFD)
}

func (w *wirePort) close() {
	if w.made != nil {
		_ = w.made.Close()
	}
}

const (
	// maxHeld is more than a guest can have given to QEMU to send: 256 frames, in bytes.
	maxHeld = 32 << 20
	// quietTurns is how many turns of QEMU's main loop without a frame show that QEMU has none.
	quietTurns = 2
)

// drainWire drops the frames that a halted machine has not sent yet. Otherwise the state has a card
// that waits for such a frame for ever, and the restored guest sends nothing (virtio_net_flush_tx
// in hw/net/virtio-net.c of QEMU 7.2).
func drainWire(ctx context.Context, in *instance) error {
	if in.wirePort.made == nil && in.wirePort.holder == nil {
		return nil
	}
	wire, err := in.Wire()
	if err != nil {
		in.log.Warn("frames of the guest may be held while it is saved", "error", err)
		return nil
	}
	defer wire.Close()
	dropped, buf := 0, make([]byte, 1)
	for quiet := 0; quiet < quietTurns; {
		before := dropped
		for dropped < maxHeld {
			n, _, err := unix.Recvfrom(int(wire.Fd()), buf, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil || n == 0 { // nothing waits, or the machine has ended
				break
			}
			dropped += n
		}
		if dropped >= maxHeld {
			return fault.New(fault.Unavailable, "QEMU sends frames although the machine is halted")
		}
		if quiet++; dropped > before {
			quiet = 0
		}
		if _, err := in.status(ctx); err != nil { // a turn of its main loop
			return err
		}
	}
	return nil
}
