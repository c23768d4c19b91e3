package fake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vmm"
)

// Pause halts the machine: nothing comes from its guest until Resume.
func (in *instance) Pause(ctx context.Context) error { return in.halt(ctx, OpPause, true) }

// Resume lets it go on.
func (in *instance) Resume(ctx context.Context) error { return in.halt(ctx, OpResume, false) }

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
	Length      int64  `json:"length"` // of what the guest keeps at the beginning of its memory
}

// Save keeps what the guest has in its memory.
func (in *instance) Save(ctx context.Context, req vmm.SaveRequest) (saved vmm.Saved, err error) {
	if err := errors.Join(in.d.o.Fail(OpSave, in.m.ID), ctx.Err(), in.alive()); err != nil {
		return vmm.Saved{}, err
	}
	if !in.d.host.lockSave(in.m) {
		return vmm.Saved{}, fault.New(fault.Locked, "machine %s is being saved already", in.m.ID)
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
	text, _ := json.Marshal(device{Version: 1, Fingerprint: fingerprint, Length: int64(len(memory))}) // strings and numbers always marshal
	_, errMemory := req.Memory.WriteAt(memory, 0)
	_, errDevice := file.Write(text)
	if err := errors.Join(errMemory, errDevice, req.Memory.Truncate(int64(in.m.Memory)), in.d.o.Fail(OpStill, in.m.ID), call(ctx, req.Still), in.alive()); err != nil {
		return vmm.Saved{}, fmt.Errorf("saving fake machine %s: %w", in.m.ID, err)
	}
	return vmm.Saved{Memory: model.Bytes(len(memory)), Device: model.Bytes(len(text))}, nil
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

// Restore is Start with what a guest had in its memory. Unlike a real driver it refuses a machine with another fingerprint.
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
		return nil, fault.New(fault.Invalid, "%.80q is no state of a fake machine's devices (%v)", text, err)
	}
	want, err := d.Fingerprint(ctx, m)
	if err != nil {
		return nil, err
	}
	if want != dev.Fingerprint {
		return nil, fault.New(fault.Invalid, "the state is of another machine: %s is not %s", dev.Fingerprint, want)
	}
	info, err := from.Memory.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() != int64(m.Memory) || dev.Length > info.Size() {
		return nil, fault.New(fault.Invalid, "%d bytes of memory are not %d", info.Size(), m.Memory)
	}
	memory := make([]byte, dev.Length)
	if _, err := from.Memory.ReadAt(memory, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return memory, nil
}

// Fingerprint lists what the machine is made of.
func (d *Driver) Fingerprint(_ context.Context, m vmm.Machine) (string, error) {
	parts := []string{d.o.Info.Version, fmt.Sprint(m.VCPUs, int64(m.Memory)), strings.Join(m.Cmdline, " ")}
	for _, path := range append([]string{m.Kernel}, m.Initramfs...) {
		if path == "" {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return "", fmt.Errorf("fingerprinting fake machine %s: %w", m.ID, err)
		}
		parts = append(parts, fmt.Sprint(path, info.Size(), info.ModTime().UnixNano()))
	}
	for _, drive := range m.Drives {
		parts = append(parts, fmt.Sprint(drive.Serial, drive.ReadOnly))
	}
	for _, nic := range m.NICs {
		parts = append(parts, string(nic.Kind))
	}
	return "fake:" + strings.Join(parts, ";"), nil
}
