package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/proto"
)

// freezeTime bounds halting all processes. It takes milliseconds, unless one of them waits for a
// disk.
const freezeTime = 2 * time.Second

// freezeService halts a machine that is being saved, and lets it continue.
type freezeService struct {
	log       *slog.Logger
	life      *life
	cards     *cards
	processes *processes
}

// freeze answers POST /v1/freeze.
func (s *freezeService) freeze(r *http.Request) (any, error) {
	s.life.change.Lock()
	defer s.life.change.Unlock()
	switch s.life.now() {
	case unidentified: // no other process exists yet
		return proto.Frozen{}, nil
	case frozen:
		return proto.Frozen{Processes: s.processes.haltedCount}, nil
	case assumed:
	default:
		return nil, fault.New(fault.WrongState, "this machine has no usable identity; only a new start helps")
	}
	late := fault.New(fault.Unavailable, "processes still run after %v", freezeTime)
	ctx, cancel := context.WithTimeoutCause(r.Context(), freezeTime, late)
	defer cancel()
	n, err := s.processes.halt(ctx)
	if err != nil {
		return nil, err
	}
	s.life.enter(frozen)
	return proto.Frozen{Processes: n}, nil
}

// thaw answers POST /v1/thaw: time has passed, and the machine continues with the identity that it
// had.
func (s *freezeService) thaw(r *http.Request) (any, error) {
	var req proto.Thaw
	if err := readJSON(r, proto.MaxReply, &req); err != nil {
		return nil, err
	}
	switch {
	case len(req.Entropy) < minEntropy:
		return nil, fault.New(fault.Invalid, "entropy: %d bytes are less than %d", len(req.Entropy), minEntropy)
	case req.Time.IsZero():
		return nil, fault.New(fault.Invalid, "time: missing")
	}
	if err := checkNetworks(req.Networks); err != nil {
		return nil, err
	}
	s.life.change.Lock()
	defer s.life.change.Unlock()
	if s.life.now() == spoiled {
		return nil, fault.New(fault.WrongState, "this machine has no usable identity; only a new start helps")
	}
	if err := errors.Join(addEntropy(req.Entropy), setTime(req.Time)); err != nil {
		return nil, err
	}
	if len(req.Networks) > 0 && s.life.now() == unidentified {
		return nil, fault.New(fault.WrongState, "this machine has no identity, and so no networks")
	}
	if err := s.cards.renew(req.Networks); err != nil {
		return nil, err
	}
	if s.life.now() == frozen {
		if err := s.processes.resume(false); err != nil {
			return nil, err
		}
		s.life.enter(assumed)
	}
	return struct{}{}, nil
}

// stuckHalted reports whether all processes are halted and cannot continue. Then the machine ends
// without asking them. It first thaws a frozen machine, so that its end is orderly.
func (s *freezeService) stuckHalted() bool {
	if !s.life.change.TryLock() {
		return false // whoever holds it lets the processes continue
	}
	defer s.life.change.Unlock()
	if s.life.now() == frozen {
		if err := s.processes.resume(false); err != nil {
			s.log.Error("thawing", "error", err)
		} else {
			s.life.enter(assumed)
		}
	}
	return s.processes.isHalted()
}
