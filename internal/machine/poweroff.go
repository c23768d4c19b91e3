package machine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/report"
	"banger/internal/model"
	"banger/internal/oplock"
	"banger/internal/pace"
	"banger/internal/step"
	"banger/internal/vmm"
)

// PowerOff is the end of a machine by its guest.
type PowerOff struct {
	Subject Subject
	Machine *Machine
	Grace   time.Duration // for all of it
	// Fixed is whether a person has chosen the grace. Otherwise it follows the host's speed.
	Fixed bool
	// Held is the lack of space that has halted the machine, which must be continued first; or nil.
	Held *model.Hold
	// HeldNow returns why the guard of the host's free space has halted the machine; nil if it has
	// not. During the power-off, it does so when the guest has written more than it may.
	HeldNow func() *model.Hold
}

// disksShare is the part of a grace that belongs to the guest's disks, once its processes have
// ended or were killed. It is at most half of the grace.
const disksShare = 5 * time.Second

// PowerOff asks the guest to power off and waits until its machine has ended. An error says why the
// guest may not have saved its data: the machine still runs, or programs in it were killed.
func (h *Host) PowerOff(ctx context.Context, r PowerOff) error {
	const hint = "Next time, give the guest more time: `banger stop --timeout 1m`, or the setting stop_timeout."
	what := "power-off of the guest"
	if r.Held != nil {
		what += fmt.Sprintf(", which is held (%v; free some space on the host)", r.Held)
	}
	defer step.Waiting(ctx, what, r.Grace)()
	defer oplock.AwaitGuest(ctx)()
	caller := ctx
	ctx, end := context.WithCancel(ctx) // at the machine's end
	defer end()
	var ended atomic.Bool
	var watch sync.WaitGroup
	watch.Go(func() {
		if _, err := r.Machine.Instance.Wait(ctx); err == nil {
			ended.Store(true)
			end()
		}
	})
	watch.Go(func() { pace.Every(ctx, retryEvery, r.retry) })
	killed, err := h.powerOff(ctx, r)
	end()
	watch.Wait()
	switch {
	case !ended.Load():
		if why := r.shortage(caller); why != "" {
			return fault.New(fault.Unavailable, "the guest may not have saved its data, because the host lacks disk space: %s: %w", why, err).
				WithHint("Free some space before you stop a VM that is held: it continues by itself, and can save its data. %s", fault.Relief)
		}
		return fault.New(fault.Unavailable, "the guest may not have saved its data: %w", err).WithHint(hint)
	case len(killed) > 0:
		return fault.New(fault.Unavailable, "programs that did not end in time were killed, and may not have saved their data: %s",
			report.Marked(strings.Join(killed, ", "))).WithHint(hint)
	}
	return nil
}

// CheckReach fails if nobody can ask the guest to power off.
func (m *Machine) CheckReach() error {
	if r, ok := m.Instance.(vmm.Reacher); ok {
		return r.Reach()
	}
	return nil
}

// powerOff returns when the machine has ended, which ctx says, or when the grace is over.
func (h *Host) powerOff(ctx context.Context, r PowerOff) (killed []string, err error) {
	began, disks := time.Now(), min(r.Grace/2, disksShare)
	first, cancel := r.within(ctx, r.Grace-disks)
	defer cancel()
	// only a guest that runs can power off; a hold of this moment may not be known
	if halt, _ := r.halted(first); r.Held != nil || halt != vmm.NotHalted {
		if err := r.Machine.Resume(first); err != nil {
			return nil, err
		}
	}
	// so that one that hangs does not cost the power-off
	hooks, cancel := r.within(first, r.Grace/4)
	h.preStop(hooks, r.Subject, r.Machine.Agent)
	cancel()
	asked := r.ask(first, r.Grace-disks)
	<-first.Done()
	if ctx.Err() != nil {
		return nil, asked
	}
	last, cancel := r.within(ctx, disks)
	defer cancel()
	ending, err := r.Machine.Agent.PowerOff(last, 0)
	<-last.Done()
	late := fmt.Errorf("no power-off within %v", time.Since(began).Round(max(r.Grace/10, time.Millisecond)))
	if asked = cmp.Or(asked, err); asked != nil {
		late = fmt.Errorf("%w: %w", late, asked)
	}
	return ending.Killed, late
}

const (
	// retryEvery is how often a machine that is halted is continued. One that has halted at a full
	// disk tries its write again.
	retryEvery = 2 * time.Second
	// haltTimeout bounds the question why a machine is halted.
	haltTimeout = 2 * time.Second
)

// retry continues the machine if it is halted: there may be space now. Nobody else does this during
// a stop.
func (r PowerOff) retry(ctx context.Context, _ time.Time) {
	halt, _ := r.halted(ctx)
	if held := r.HeldNow(); halt == vmm.NotHalted || held != nil && held.Reason == model.HeldAtFloor {
		return
	}
	_ = r.Machine.Resume(ctx) // the next try may succeed
}

// shortage returns the lack of space that keeps the guest from powering off, or "".
func (r PowerOff) shortage(ctx context.Context) string {
	halt, err := r.halted(ctx)
	held := cmp.Or(r.HeldNow(), r.Held)
	switch {
	case err == nil && halt == vmm.NotHalted: // all its writes have succeeded
		return ""
	case held != nil:
		return held.String()
	case halt == vmm.HaltedFull:
		return "the host's disk is full"
	}
	return ""
}

// halted reports whether and why the machine is halted. After an error it reports vmm.NotHalted.
// The wait for the guest is reported: that for this answer would replace it.
func (r PowerOff) halted(ctx context.Context) (vmm.Halt, error) {
	ctx = step.WithWaits(ctx, func(step.Event) {})
	ctx, cancel := context.WithTimeout(ctx, haltTimeout)
	defer cancel()
	h, ok := r.Machine.Instance.(vmm.HaltReporter)
	if !ok {
		return vmm.NotHalted, nil
	}
	return h.Halted(ctx)
}

// within bounds a part of the power-off.
func (r PowerOff) within(ctx context.Context, nominal time.Duration) (context.Context, context.CancelFunc) {
	late := func(waited time.Duration) error {
		return fault.New(fault.Unavailable, "no answer within %v", waited)
	}
	if r.Fixed {
		return context.WithTimeoutCause(ctx, nominal, late(nominal))
	}
	return pace.Cause(ctx, nominal, late)
}

// ask asks the agent first: it knows the image's own way. The power button is for guests whose
// agent does not answer. The host says when the time of the processes is over, because only the
// host knows its speed. The time that the agent gets counts if the host says nothing more.
func (r PowerOff) ask(ctx context.Context, processes time.Duration) error {
	processes *= 2
	if !r.Fixed {
		processes *= pace.Most
	}
	// one that hangs leaves the rest to the button
	answer, cancel := r.within(ctx, r.Grace/4)
	defer cancel()
	_, err := r.Machine.Agent.PowerOff(answer, processes)
	if err != nil && ctx.Err() == nil {
		err = errors.Join(err, r.Machine.Instance.PowerOff(ctx))
	}
	return err
}

// preStop calls the hooks of a VM that is going to stop. Their errors are logged.
func (h *Host) preStop(ctx context.Context, s Subject, agent Agent) {
	for _, c := range h.Capabilities {
		p, ok := c.(PreStopper)
		if !ok {
			continue
		}
		if err := p.PreStop(ctx, PreStopRequest{Subject: s, Agent: agent}); err != nil {
			h.Log.WarnContext(ctx, "preparing a stop", "vm", s.ID, "capability", c.Name(), "error", err)
		}
	}
}
