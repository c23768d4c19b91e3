package fake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vmm"
)

// Pause halts the machine: its guest does nothing until Resume.
func (in *instance) Pause(ctx context.Context) error { return in.halt(ctx, OpPause, true) }

// Resume continues the machine.
func (in *instance) Resume(ctx context.Context) error { return in.halt(ctx, OpResume, false) }

// Halted reports whether and why the machine is halted.
func (in *instance) Halted(ctx context.Context) (vmm.Halt, error) {
	if err := errors.Join(ctx.Err(), in.alive()); err != nil {
		return vmm.NotHalted, err
	}
	return in.d.host.haltOf(in.m), nil
}

func (in *instance) halt(ctx context.Context, op Op, halted bool) error {
	if err := errors.Join(in.d.o.Fail(op, in.m.ID), ctx.Err(), in.alive()); err != nil {
		return err
	}
	in.d.host.halt(in.m, halted)
	return nil
}

func (in *instance) alive() error {
	select {
	case <-in.m.ended:
		return fault.New(fault.WrongState, "machine %s has ended", in.m.ID)
	default:
		return nil
	}
}

// device is the state of a fake machine's devices.
type device struct {
	Version     int    `json:"version"`
	Fingerprint string `json:"fingerprint"`
	Length      int64  `json:"length"` // bytes of what the guest has at the beginning of its memory
}

// layout is where the machine's memory lies in a memory file: in two parts, so that tests notice
// who loses the layout.
func layout(m vmm.Machine) *vmm.MemoryLayout {
	const page, above = 4096, 1 << 40
	low := m.Memory / 2 / page * page
	if low == 0 {
		return vmm.NewMemoryLayout(vmm.MemoryRegion{Size: m.Memory})
	}
	return vmm.NewMemoryLayout(
		vmm.MemoryRegion{Size: low}, vmm.MemoryRegion{Address: above, Size: m.Memory - low, Offset: int64(low)})
}

// Save saves what the guest has in its memory.
func (in *instance) Save(ctx context.Context, req vmm.SaveRequest) (saved vmm.Saved, err error) {
	if err := errors.Join(in.d.o.Fail(OpSave, in.m.ID), ctx.Err(), in.alive()); err != nil {
		return vmm.Saved{}, err
	}
	if !in.d.host.lockSave(in.m) {
		return vmm.Saved{}, fault.New(fault.Locked, "machine %s is already being saved", in.m.ID)
	}
	defer in.d.host.unlockSave(in.m)
	fingerprint, err := in.d.Fingerprint(ctx, in.m.Machine)
	if err != nil {
		return vmm.Saved{}, err
	}
	file, err := os.OpenFile(req.Device, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return vmm.Saved{}, fmt.Errorf("saving fake machine %s: %w", in.m.ID, err)
	}
	defer func() {
		if err = errors.Join(err, file.Close()); err != nil {
			saved, err = vmm.Saved{}, errors.Join(err, os.Remove(req.Device))
		}
	}()
	if err := errors.Join(call(ctx, req.Before), in.alive()); err != nil {
		return vmm.Saved{}, err
	}
	began := time.Now()
	before := in.d.host.halt(in.m, true)
	if !before {
		defer func() {
			if err == nil && req.Halt {
				return
			}
			in.d.host.halt(in.m, false)
			saved.Pause = time.Since(began)
			if req.After != nil {
				req.After()
			}
		}()
	}
	memory := in.d.host.Memory(in.m.ID)
	state := device{Version: 1, Fingerprint: fingerprint, Length: int64(len(memory))}
	text, _ := json.Marshal(state) // strings and numbers always marshal
	if err := errors.Join(in.write(req.Memory, memory, file, text), in.still(ctx, req)); err != nil {
		return vmm.Saved{}, fmt.Errorf("saving fake machine %s: %w", in.m.ID, err)
	}
	return vmm.Saved{Memory: model.Bytes(len(memory)), Device: model.Bytes(len(text)), Layout: layout(in.m.Machine)}, nil
}

// write writes the files of a Save.
func (in *instance) write(to *os.File, memory []byte, device *os.File, text []byte) error {
	_, errMemory := to.WriteAt(memory, 0)
	_, errDevice := device.Write(text)
	return errors.Join(errMemory, errDevice, to.Truncate(int64(in.m.Memory)))
}

// still does what a Save does while the machine is halted.
func (in *instance) still(ctx context.Context, req vmm.SaveRequest) error {
	return errors.Join(in.d.o.Fail(OpStill, in.m.ID), call(ctx, req.Still), in.alive())
}

func call(ctx context.Context, f func(context.Context) error) error {
	if f != nil {
		if err := f(ctx); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// Restore is Start with what a guest had in its memory. Unlike a real driver, it refuses a machine
// that has another fingerprint.
func (d *Driver) Restore(ctx context.Context, m vmm.Machine, from vmm.Checkpoint, intend func(vmm.State) error) (vmm.Instance, error) {
	if err := d.o.Fail(OpRestore, m.ID); err != nil {
		return nil, err
	}
	memory, err := d.load(ctx, m, from)
	if err != nil {
		return nil, fmt.Errorf("restoring fake machine %s: %w", m.ID, err)
	}
	return d.make(ctx, m, memory, intend)
}

func (d *Driver) load(ctx context.Context, m vmm.Machine, from vmm.Checkpoint) ([]byte, error) {
	const most = 1 << 20
	text, err := io.ReadAll(io.NewSectionReader(from.Device, 0, most))
	if err != nil {
		return nil, err
	}
	var dev device
	if err := json.Unmarshal(text, &dev); err != nil || dev.Version != 1 {
		return nil, fault.New(fault.Invalid, "%.80q is not the state of a fake machine's devices (%v)", text, err)
	}
	want, err := d.Fingerprint(ctx, m)
	if err != nil {
		return nil, err
	}
	if want != dev.Fingerprint {
		return nil, fault.New(fault.Invalid, "the state is of another machine: %s is not %s", dev.Fingerprint, want)
	}
	regions, err := from.Regions(m.Memory)
	if err != nil {
		return nil, err
	}
	if from.Layout != nil && !slices.Equal(regions, layout(m).Regions) {
		return nil, fault.New(fault.Invalid, "the memory does not lie where this machine has it: %+v", regions)
	}
	if dev.Length < 0 || dev.Length > int64(m.Memory) {
		return nil, fault.New(fault.Invalid, "%d bytes are not in a memory of %d", dev.Length, m.Memory)
	}
	memory := make([]byte, dev.Length)
	if _, err := from.Memory.ReadAt(memory, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return memory, nil
}

// Fingerprint lists what the machine consists of.
func (d *Driver) Fingerprint(_ context.Context, m vmm.Machine) (string, error) {
	parts := []string{d.o.Info.Version, fmt.Sprint(m.VCPUs, int64(m.Memory)), strings.Join(m.Cmdline, " ")}
	if m.Kernel != "" && m.BootID == "" {
		return "", fault.New(fault.Internal, "fingerprinting fake machine %s: its boot files have no identity", m.ID)
	}
	parts = append(parts, m.BootID)
	for _, drive := range m.Drives {
		parts = append(parts, fmt.Sprint(drive.Name, drive.ReadOnly))
	}
	for _, nic := range m.NICs {
		parts = append(parts, string(nic.Kind))
	}
	return "fake:" + strings.Join(parts, ";"), nil
}
