package qemu

import (
	"context"
	"net"
	"time"
)

// bootPatience is how long a guest that boots in emulation may be silent, on its console and on its agent's port, before its boot is taken for hung and
// begun again; the next time it is twice as long. A boot that goes on is not silent for more than a second or two, on a busy host ten.
//
// Boots hang now and then, one in some hundred on a busy host: QEMU before 8.1 may keep the translation of code that another CPU rewrites meanwhile
// (mended by its commit deba78709a), and Linux rewrites itself while all CPUs run, with breakpoints in place of what is not whole yet. All CPUs then meet a
// breakpoint that is gone, for ever. It happens to a guest that has booted, too, but such guests seldom rewrite themselves. (With thread=single it
// does not happen, but then a guest with one busy CPU answers in steps of a tenth of a second.)
const bootPatience = 30 * time.Second

// watchBoot makes a machine boot again whose guest falls silent before its agent was heard. Nothing is lost: up to then it has no disk mounted.
func (in *instance) watchBoot(patience time.Duration) {
	for range maxResets {
		if !in.fallsSilent(patience) {
			return
		}
		in.bootAgain("the guest has been silent for " + patience.String())
		patience *= 2
	}
}

// fallsSilent waits until the guest has said nothing for some time, and returns false when there is nothing to wait for any more.
func (in *instance) fallsSilent(patience time.Duration) bool {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case <-in.seen.said:
			timer.Reset(patience)
		case <-timer.C:
			return true
		case <-in.agent.heard:
			return false
		case <-in.proc.Done():
			return false
		case <-in.closed:
			return false
		}
	}
}

// bootAgain resets the machine, which -no-reboot forbids while it is not told otherwise. QEMU before 6.0 cannot be told. A machine that is paused is left
// alone.
func (in *instance) bootAgain(cause string) {
	ctx, cancel := context.WithTimeout(context.Background(), greetTimeout)
	defer cancel()
	err := in.locked(ctx, func(running bool) error {
		if !running {
			return nil
		}
		in.log.Info(cause + ": it boots again")
		if err := in.ask(ctx, "set-action", map[string]any{"reboot": "reset"}, nil); err != nil {
			return err
		}
		err := in.ask(ctx, "system_reset", nil, nil)
		if back := in.ask(ctx, "set-action", map[string]any{"reboot": "shutdown"}, nil); err == nil {
			err = back
		}
		return err
	})
	if err != nil {
		in.log.Warn(cause+", and it cannot be made to boot again", "error", err)
	}
}

// listening is a connection to a machine's agent that tells of the first byte that comes from there.
type listening struct {
	net.Conn
	port *agentPort
}

func (l *listening) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if n > 0 {
		l.port.once.Do(func() { close(l.port.heard) })
	}
	return n, err
}
