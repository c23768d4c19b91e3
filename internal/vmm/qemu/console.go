package qemu

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"banger/internal/socket"
	"banger/internal/vmm/console"
)

// QEMU sends each byte of the console by itself, and each costs a wake-up. Beyond consoleRate on
// average, and consoleBurst at once, the reader pauses for consolePace after each read. Meanwhile
// the bytes wait in the socket, and the guest waits for its serial port.
const (
	consoleBurst = 256 << 10 // bytes; several verbose boots
	consoleRate  = 32 << 10  // bytes a second
	consolePace  = time.Millisecond
)

// openConsole begins to copy the console to its log. If the console cannot be reached, it only
// warns. The same holds for the log of an adopted machine, which somebody must be able to stop.
func (in *instance) openConsole(ctx context.Context, adopted bool) error {
	in.seen.consoleEnd = make(chan struct{})
	if in.s.ConsoleLog == "" {
		close(in.seen.consoleEnd)
		return nil
	}
	var log io.WriteCloser = discard{io.Discard}
	opened, err := console.Open(in.s.ConsoleLog, int64(in.s.ConsoleMax))
	switch {
	case err == nil:
		log = opened
	case adopted: // the console is read nevertheless: it shows a panic
		in.log.Warn("the console is not logged", "error", err)
	default:
		close(in.seen.consoleEnd)
		return err
	}
	in.serial, err = socket.Dial(ctx, runPath(in.s, consoleSocket))
	if err != nil {
		in.log.Warn("the console cannot be reached", "error", err)
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

// discard is the log of a console that is not logged.
type discard struct{ io.Writer }

func (discard) Close() error { return nil }

func (in *instance) copyConsole(log io.Writer) {
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
			in.log.Warn("the console is not logged", "error", werr)
		}
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				in.log.Debug("the console has ended", "error", err)
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
