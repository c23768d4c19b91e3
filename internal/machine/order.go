package machine

import (
	"context"
	"time"

	"banger/internal/guest/proto"
	"banger/internal/model"
	"banger/internal/step"
	"banger/internal/vmm"
)

// Order says what machine to bring up.
type Order struct {
	Subject  Subject
	Identity Identity
	Driver   string  // name; "": the default one
	Source   Source  // nil: Choose decides
	Choose   Chooser // nil: a boot
	Answered Keeper  // may be nil
	Idle     bool    // everything else on the host comes first
	Journal  Journal // nil: nothing is stored, as for a machine without a record
	Report   step.Reporter
	// Leave reports that a launch that has failed leaves what it has made, for Complete. It may be
	// nil.
	Leave func() bool
}

// Identity says how far the guest is initialised.
type Identity int

// The identities.
const (
	Own       Identity = iota // the guest becomes the subject
	Anonymous                 // the image and the disks are mounted, and the guest is nobody's
	None                      // the agent waits, and no disk is mounted
)

// Chooser finds the best source for a launch whose image, kernel and fingerprint are known.
type Chooser func(ctx context.Context, l *Launch) Source

// Keeper is called when the agent of a new machine has answered and the guest has no identity yet.
type Keeper func(ctx context.Context, l *Launch)

// Journal makes durable what a launch is about to have on the host.
type Journal interface {
	// Intend stores what finds the VMM again, before it exists.
	Intend(ctx context.Context, s vmm.State) error
	// Started stores that the machine exists. The journal has the machine also if it fails.
	Started(ctx context.Context, m *Machine, info vmm.Info) error
	// Ended is called when the undo of a step has ended the machine.
	Ended()
	// StoreFact stores what a capability is about to make.
	StoreFact(ctx context.Context, capability string, f model.Fact) error
}

// noJournal serves machines without a record: a crash leaves their run directory, which leads to
// them.
type noJournal struct{}

func (noJournal) Intend(context.Context, vmm.State) error             { return nil }
func (noJournal) Started(context.Context, *Machine, vmm.Info) error   { return nil }
func (noJournal) Ended()                                              {}
func (noJournal) StoreFact(context.Context, string, model.Fact) error { return nil }

// Launch is one machine on its way up. Its fields are set by the steps, in the order of the plan.
type Launch struct {
	Subject Subject
	Source  Source
	// of the described machine; "" if the source needs none, or the driver restores none
	Fingerprint string
	FreshDisks  bool     // the disks were made by this launch
	Machine     *Machine // nil until the VMM runs
	Records     []step.Record

	host      *Host
	order     Order
	journal   Journal
	driver    vmm.Driver
	began     time.Time
	info      vmm.Info
	image     model.Image
	kernel    model.Kernel
	initramfs Initramfs
	intended  vmm.State // what finds a VMM that may exist
	hello     proto.Hello
	helloAt   time.Time
	assumed   proto.Assumed
	ended     error // why the machine could not be ended; what it may use stays then
	killed    bool  // the user ended the machine
}

// Restored reports whether the machine was restored and not booted.
func (l *Launch) Restored() bool { return l.Source != nil && l.Source.Origin() != nil }

// Template is the key of the template that the machine came from; "" for none.
func (l *Launch) Template() string {
	if l.Source == nil {
		return ""
	}
	return l.Source.traits().template
}

// HasInit reports whether the image has an init of its own.
func (l *Launch) HasInit() bool { return l.image.Init != "" }
