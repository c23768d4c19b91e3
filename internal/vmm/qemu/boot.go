package qemu

import (
	"context"
	"net"
	"time"

	"banger/internal/pace"
	"banger/internal/vmm/qemu/defect"
)

// bootWatch resets a machine whose guest falls silent before its agent was heard: see
// defect.MixesUpCPUs. Nothing is lost, because until then the guest has mounted no disk.
type bootWatch struct{ *instance }

func (w bootWatch) run(patience time.Duration) {
	for range defect.MaxResets {
		if !w.fallsSilent(patience) {
			return
		}
		w.reset("the guest has been silent for " + patience.String())
		patience *= 2
	}
}

// fallsSilent waits until the guest has been silent for that long. It returns false if the guest's
// agent was heard, or the machine has ended.
func (w bootWatch) fallsSilent(patience time.Duration) bool {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case <-w.seen.heard:
			timer.Reset(patience)
		case <-timer.C:
			return true
		case <-w.agent.heard:
			return false
		case <-w.proc.Done():
			return false
		case <-w.closed:
			return false
		}
	}
}

// reset makes the machine boot again, unless it is paused. As long as -no-reboot holds, a reset
// would end QEMU; versions before 6.0 cannot change it.
func (w bootWatch) reset(cause string) {
	ctx, cancel := pace.Context(context.Background(), greetTimeout, "answer")
	defer cancel()
	err := w.locked(ctx, func(running bool) error {
		if !running {
			return nil
		}
		w.log.Info(cause + ": the machine is reset")
		if err := w.ask(ctx, "set-action", map[string]any{"reboot": "reset"}, nil); err != nil {
			return err
		}
		err := w.ask(ctx, "system_reset", nil, nil)
		if back := w.ask(ctx, "set-action", map[string]any{"reboot": "shutdown"}, nil); err == nil {
			err = back
		}
		return err
	})
	if err != nil {
		w.log.Warn(cause+", and the machine cannot be reset", "error", err)
	}
}

// listening is a connection to a machine's agent that reports the first byte from there.
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
