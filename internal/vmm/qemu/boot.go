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
		silent := w.silence(patience)
		if silent == 0 {
			return
		}
		w.reset("the guest has been silent for " + silent.Round(time.Second).String())
		patience *= 2
	}
}

// silence waits until the guest has been silent for that long, or longer on a slow host, and
// returns for how long. It returns 0 if the guest's agent was heard, or the machine has ended.
func (w bootWatch) silence(patience time.Duration) time.Duration {
	for {
		began := time.Now()
		quiet, stop := pace.Context(context.Background(), patience, "output of the guest")
		select {
		case <-w.seen.heard:
			stop()
			continue
		case <-quiet.Done():
			stop()
			return time.Since(began)
		case <-w.agent.heard:
		case <-w.proc.Done():
		case <-w.closed:
		}
		stop()
		return 0
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
