package machine

import (
	"context"
	"errors"
	"os"

	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/model"
	"banger/internal/snapshot"
	"banger/internal/vmm"
)

// Source is what a machine starts from. The set is closed: Boot, *Template, *Fork, *Resume,
// *Standby. The Launch that gets a source closes it.
type Source interface {
	// Origin is what the record keeps of a start from this source; nil for a boot.
	Origin() *model.Origin
	// Close releases the files. A machine that was restored from them keeps what it needs.
	Close() error

	// starter returns what has the driver make the machine. A Standby has none: its machine exists.
	starter(d vmm.Driver) (starter, error)
	// check refuses a guest that is not the one that was saved.
	check(hello proto.Hello) error
	traits() traits
}

// starter is vmm.Driver.Start or what takes its place.
type starter func(ctx context.Context, m vmm.Machine, intend func(vmm.State) error) (vmm.Instance, error)

// traits are what steps have to know of a source.
type traits struct {
	template string // key of the template that it comes from; "" for none
	// what the machine's disks begin as, by name; nil for the subject's own
	disks map[string]string
	// of the template that has disks mounted: the sizes that its guest knows
	mounted model.Spec
	// fingerprint that the machine's shape must have; "" if it needs no check
	shape     string
	keepsSelf bool // the guest keeps its identity, so it is thawed and not assumed
	prepared  bool // the machine and its disks exist before the launch
	awaited   bool // it is restored alone, so somebody waits for it
}

// Boot starts the kernel.
type Boot struct {
	Forced bool // by the user: the start neither uses nor makes a template
}

// Saved is the state that restored machines begin with: open files of a saved machine, and where
// the guest's memory lies in its file.
type Saved struct {
	Memory, Device *os.File
	Layout         *vmm.MemoryLayout
}

// Template restores a machine that has no identity yet, made by banger itself.
type Template struct {
	Saved
	Key       string
	Universal bool              // the agent waits and no disk is mounted
	Image     string            // as the user wrote it; of an image's template
	Disks     map[string]string // of an image's template
	Mounted   model.Spec        // what an image's template was made as
}

// Fork restores another machine, which gets an identity of its own.
type Fork struct {
	Saved
	From  model.Origin
	Shape string // fingerprint of the saved machine's shape
	Alone bool   // no other machine is made from the same state now
}

// Resume restores a VM's own machine, which keeps its identity.
type Resume struct {
	Saved
	VM    string     // id
	Spec  model.Spec // what the machine was started as
	Shape string
}

// Standby takes over a machine that was restored before anybody asked for it.
type Standby struct {
	Subject     Subject // its own; whoever takes it over gets its id
	Machine     *Machine
	Key         string // of its template
	Fingerprint string
}

// Open opens the files of a saved machine.
func (s *Saved) Open(snap *snapshot.Snapshot) (err error) {
	if s.Layout, err = vmm.DecodeMemoryLayout(snap.Meta().Layout); err != nil {
		return err
	}
	if s.Memory, err = snap.OpenMemory(); err != nil {
		return err
	}
	if s.Device, err = snap.OpenDevice(); err != nil {
		s.Memory.Close()
		s.Memory = nil
	}
	return err
}

// Close closes the files. It may be called more than once.
func (s *Saved) Close() error {
	var errs []error
	for _, f := range []*os.File{s.Memory, s.Device} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	s.Memory, s.Device = nil, nil
	return errors.Join(errs...)
}

func (s *Saved) starter(d vmm.Driver) (starter, error) {
	r, err := Restorer(d)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, m vmm.Machine, intend func(vmm.State) error) (vmm.Instance, error) {
		return r.Restore(ctx, m, vmm.Checkpoint{Memory: s.Memory, Device: s.Device, Layout: s.Layout}, intend)
	}, nil
}

// Restorer returns the driver as one that restores machines, or fault.Unsupported.
func Restorer(d vmm.Driver) (vmm.Restorer, error) {
	r, ok := d.(vmm.Restorer)
	if !ok {
		return nil, fault.New(fault.Unsupported, "the driver %s cannot restore saved machines", d.Name())
	}
	return r, nil
}

// Origin, Close and the methods after them implement Source.
func (Boot) Origin() *model.Origin                 { return nil }
func (Boot) Close() error                          { return nil }
func (Boot) traits() traits                        { return traits{} }
func (Boot) starter(d vmm.Driver) (starter, error) { return d.Start, nil }
func (Boot) check(hello proto.Hello) error         { return checkNew(hello) }

// Origin names the template.
func (t *Template) Origin() *model.Origin {
	if t.Universal {
		return &model.Origin{Kind: model.FromUniversal, Of: t.Key}
	}
	return &model.Origin{Kind: model.FromTemplate, Of: t.Key, Name: t.Image}
}

func (t *Template) traits() traits {
	return traits{template: t.Key, disks: t.Disks, mounted: t.Mounted, awaited: true}
}

func (t *Template) check(hello proto.Hello) error {
	if t.Universal {
		return checkNew(hello)
	}
	return checkFrozen(hello)
}

// Origin names the VM or snapshot.
func (f *Fork) Origin() *model.Origin { return &f.From }
func (f *Fork) traits() traits        { return traits{shape: f.Shape, awaited: f.Alone} }

func (f *Fork) check(hello proto.Hello) error {
	if hello.Frozen {
		return nil
	}
	err := fault.New(fault.Damaged, "this memory is of no use to another VM: the guest's processes were not frozen when it was saved")
	if f.From.Kind == model.FromSnapshot {
		return err.WithHint("`banger snapshot restore --disks-only %s` restores its disks", f.From.Of)
	}
	return err.WithHint("If VM %[1]s is suspended, resume it first: `banger vm resume %[1]s`", f.From.Of)
}

// Origin names the VM.
func (r *Resume) Origin() *model.Origin { return &model.Origin{Kind: model.FromSuspended, Of: r.VM} }
func (r *Resume) traits() traits {
	return traits{shape: r.Shape, keepsSelf: true, awaited: true}
}

// check also accepts a guest that an earlier version has not frozen. Its processes have seen the
// clock jump, but what they have in memory is the VM's own.
func (r *Resume) check(hello proto.Hello) error {
	if !hello.Assumed {
		return fault.New(fault.Internal, "the guest of this memory has no identity")
	}
	return nil
}

// Origin names the template.
func (s *Standby) Origin() *model.Origin {
	return &model.Origin{Kind: model.FromTemplate, Of: s.Key, Name: s.Subject.Spec.Image}
}

// Close does nothing: the machine is the launch's.
func (s *Standby) Close() error { return nil }
func (s *Standby) traits() traits {
	return traits{template: s.Key, mounted: s.Subject.Spec, prepared: true}
}
func (s *Standby) check(hello proto.Hello) error { return checkFrozen(hello) }

func (s *Standby) starter(vmm.Driver) (starter, error) {
	return nil, fault.New(fault.Internal, "a machine on standby was to be started")
}

func checkNew(hello proto.Hello) error {
	if hello.Assumed {
		return fault.New(fault.Internal, "the guest has an identity already")
	}
	return nil
}

func checkFrozen(hello proto.Hello) error {
	if !hello.Frozen {
		return fault.New(fault.Internal, "the guest's processes were not frozen when it was restored")
	}
	return nil
}

// CountedAs is what a source is called in the counts of starts.
func CountedAs(from Source) string {
	if _, ok := from.(*Standby); ok {
		return "standby"
	}
	if o := from.Origin(); o != nil {
		return string(o.Kind)
	}
	return "boot"
}
