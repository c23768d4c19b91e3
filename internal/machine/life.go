package machine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"banger/internal/pace"
)

// lifeTimeout is the nominal time of one hook of a VM's life.
const lifeTimeout = time.Minute

// Created calls the hooks of a VM that has got its record, up to the first error.
func (h *Host) Created(ctx context.Context, s Subject, store StoreFact) error {
	for _, c := range h.Capabilities {
		if creator, ok := c.(Creator); ok {
			if err := life(ctx, c, s, store, creator.Created); err != nil {
				return err
			}
		}
	}
	return nil
}

// Deleted calls the hooks of a VM that is being deleted, in reverse order. It continues past
// errors.
func (h *Host) Deleted(ctx context.Context, s Subject, store StoreFact) error {
	var errs []error
	for _, c := range slices.Backward(h.Capabilities) {
		if deleter, ok := c.(Deleter); ok {
			errs = append(errs, life(ctx, c, s, store, deleter.Deleted))
		}
	}
	return errors.Join(errs...)
}

func life(
	ctx context.Context, c Capability, s Subject, store StoreFact, hook func(context.Context, LifeRequest) error,
) error {
	ctx, cancel := pace.Context(ctx, lifeTimeout, "result")
	defer cancel()
	if err := hook(ctx, LifeRequest{Subject: s, StoreFact: NewFactWriter(c.Name(), store)}); err != nil {
		return fmt.Errorf("%s: %w", c.Name(), err)
	}
	return nil
}
