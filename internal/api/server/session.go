package server

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"banger/internal/api/session"
	"banger/internal/fault"
	"banger/internal/guest/relay"
	"banger/internal/model"
	"banger/internal/requestid"
)

// beginSession enters a session that outlives the request and carries its id.
func (h guestHandlers) beginSession(r *http.Request, vm string) (ctx context.Context, done func(), err error) {
	return h.sessions.Begin(requestid.With(h.work, requestid.From(r.Context())), vm)
}

// fateTime is how long the record of a VM may take to show the end of its machine.
const fateTime = 3 * time.Second

// whyLost explains the error of a command or a copy by what has become of its VM, and logs it. The
// connection of a machine that ends is gone a moment before the VM's record shows it.
func (h guestHandlers) whyLost(ctx context.Context, v model.VM, err error) error {
	gone := errors.Is(err, relay.ErrLost) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	if gone && ctx.Err() == nil {
		wait := time.NewTimer(fateTime)
		defer wait.Stop()
		select {
		case <-ctx.Done():
		case <-wait.C:
		}
	}
	err = h.cause(ctx, v, err, gone)
	if kind := fault.KindOf(err); kind == fault.Unavailable {
		h.log.WarnContext(ctx, "a command or a copy ended early", "vm", v.ID, "name", v.Spec.Name, "error", err)
	}
	return err
}

// cause returns the end of the session or of the VM rather than the error that this end led to.
func (h guestHandlers) cause(ctx context.Context, v model.VM, err error, gone bool) error {
	if cause := orCause(ctx, err); ctx.Err() != nil {
		return cause
	}
	if why := h.sessions.Expected(ctx); gone && why != "" {
		return session.Ended(v, why)
	}
	if gone {
		return fault.New(fault.Unavailable, "%w", err).WithHint("`banger vm logs %s` may show why.", v.Spec.Name)
	}
	return err
}
