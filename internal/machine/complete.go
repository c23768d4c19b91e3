package machine

import (
	"context"
	"errors"
	"time"

	"banger/internal/fault"
	"banger/internal/pace"
	"banger/internal/step"
	"banger/internal/vmm"
)

// Complete adopts a machine that has come up from memory, and completes its launch, which a crash
// of the daemon cut off. It assigns the identity, or thaws the guest, only if that is to be done
// yet. Of the order's source, no file is used. After an error, the machine is to be torn down.
func (h *Host) Complete(ctx context.Context, o Order, s vmm.State) (*Launch, error) {
	m, err := h.Adopt(ctx, o.Subject.ID, o.Driver, s)
	if err != nil {
		return nil, err
	}
	l := completion{&Launch{
		Subject: o.Subject, Source: o.Source, Machine: m,
		host: h, order: o, journal: o.Journal, driver: m.Driver, began: time.Now(),
	}}
	steps := append([]step.Step{
		{Name: "agent", Do: l.findAgent},
		{Name: "assume", Do: l.assumeOnce, Timeout: assumeTimeout},
	}, postStartSteps(l.Launch)...)
	runner := step.Runner{Log: h.Log.With("vm", o.Subject.ID, "name", o.Subject.Spec.Name), Deadline: stepDeadline}
	if l.Records, err = runner.Run(ctx, steps); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return l.Launch, nil
}

// completion is a Launch that a crash cut off.
type completion struct{ *Launch }

// findAgent waits for the agent of a guest that may have its identity.
func (l completion) findAgent(ctx context.Context) (err error) {
	if l.info, err = l.driver.Info(ctx); err != nil {
		return err
	}
	ctx, cancel := pace.Context(ctx, answerTimeout(l.Launch), "answer of the guest's agent")
	defer cancel()
	return l.Machine.whileItRuns(ctx, func(ctx context.Context) (err error) {
		l.hello, err = l.Machine.Agent.Hello(ctx)
		l.helloAt = time.Now()
		return err
	})
}

// assumeOnce is assume for a guest that may have its identity already. A guest that was cut off in
// the middle of it cannot get one any more.
func (l completion) assumeOnce(ctx context.Context) (err error) {
	switch {
	case !l.hello.Assumed:
		return fault.New(fault.WrongState, "the guest did not get all of its identity")
	case !l.hello.Frozen:
		return nil
	}
	if !l.Source.traits().keepsSelf {
		if l.image, err = l.host.Images.ByID(l.Subject.Spec.ImageID); err != nil {
			return err
		}
	}
	return l.assume(ctx)
}
