package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/oplock"
	"banger/internal/snapshot"
	"banger/internal/vmm"
)

// Capture says what of a machine is saved into a draft, all of it as at one moment.
type Capture struct {
	Draft  *snapshot.Draft
	Memory *os.File          // gets the memory; nil: the draft's own file
	Disks  map[string]string // paths by name, copied into the draft
	// copy the disks before the pause as well, and in the pause only what changed
	Early  bool
	Freeze bool // freeze the guest's processes first
	// Paused says that the machine should be halted, with its guest's processes frozen. If it runs,
	// they are frozen again: no other VM can use the memory of a guest that was not frozen.
	Paused bool
	// BeforeFreeze is called just before that; it may be nil, and an error fails the capture.
	BeforeFreeze func() error
	Halt         bool // leave the machine halted, and its processes frozen
}

// Captured is what a capture did.
type Captured struct {
	At    time.Time     // the moment that was kept
	Pause time.Duration // how long the guest's processes stood still; 0 if they were not frozen

	Layout json.RawMessage // where the guest's memory lies in its file; for snapshot.Meta

	Thawed bool // the guest's processes were frozen and continue, also if the capture failed
}

// Capture saves the machine. If it fails, the machine continues as before and the draft is
// worthless. If the guest does not continue, the error says so and Thawed is false.
func (m *Machine) Capture(ctx context.Context, c Capture) (done Captured, err error) {
	saver, ok := m.Instance.(vmm.Saver)
	if !ok {
		return done, fault.New(fault.Unsupported, "the driver %s cannot save machines", m.Driver.Name())
	}
	if c.Memory == nil {
		if c.Memory, err = c.Draft.Memory(); err != nil {
			return done, err
		}
	}
	if c.Paused {
		halt, err := m.Halted(ctx)
		if err != nil {
			return done, err
		}
		c.Freeze = halt != vmm.Halted
	}
	req := vmm.SaveRequest{Memory: c.Memory, Device: c.Draft.Device(), Halt: c.Halt}
	var early earlyDisks
	if c.Early {
		if early, err = cloneEarly(ctx, c.Disks, c.Draft); err != nil {
			return done, err
		}
	}
	req.Still = func(ctx context.Context) error {
		done.At = time.Now()
		if c.Early {
			return early.renew(ctx, c.Disks, c.Draft)
		}
		return CloneDisks(ctx, c.Disks, c.Draft)
	}
	frozen := time.Time{}
	if c.Freeze {
		req.Before = func(ctx context.Context) error {
			if c.BeforeFreeze != nil {
				if err := c.BeforeFreeze(); err != nil {
					return fmt.Errorf("preparing to freeze: %w", err)
				}
			}
			frozen = time.Now()
			return m.Freeze(ctx)
		}
	}
	var thawErr error
	thaw := sync.OnceFunc(func() {
		if frozen.IsZero() || c.Halt {
			return
		}
		// Without networks: this machine was not restored, and configuring a card again takes time.
		ctx, cancel := oplock.Outlive(ctx, thawGrace)
		defer cancel()
		thawErr = m.Thaw(ctx, proto.Thaw{Entropy: newEntropy(), Time: time.Now()})
		done.Pause, done.Thawed = time.Since(frozen), thawErr == nil
	})
	req.After = thaw
	saved, err := saver.Save(ctx, req)
	thaw()
	if err == nil {
		done.Layout, err = json.Marshal(saved.Layout)
	}
	return done, errors.Join(disk.Suspect(err, req.Device), thawErr)
}

// Meta describes a machine of a driver for a snapshot of it. at is the moment that the snapshot
// keeps.
func (h *Host) Meta(ctx context.Context, driver string, s Subject, at time.Time) (snapshot.Meta, error) {
	shape, err := h.Shape(ctx, driver, s)
	return snapshot.Meta{Created: at, Spec: s.Spec, Driver: driver, Generation: proto.Generation, Fingerprint: shape}, err
}
