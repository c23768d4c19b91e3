package vmmtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"banger/internal/vmm"
)

// like gives a machine what another one boots from.
func like(m, other vmm.Machine) vmm.Machine {
	m.Kernel, m.Initramfs = other.Kernel, other.Initramfs
	return m
}

// restore restores a machine that ends with the test.
func (s *suite) restore(m vmm.Machine, from vmm.Checkpoint, intend func(vmm.State) error) savable {
	s.Helper()
	in, err := s.restorer().Restore(s.ctx, m, from, intend)
	if err != nil {
		s.Fatalf("a machine that was saved cannot be restored: %v", err)
	}
	s.later(in, m.RunDir)
	return s.saver(in)
}

func (s *suite) restorer() vmm.Restorer {
	s.Helper()
	r, ok := s.h.Driver(s).(vmm.Restorer)
	if !ok {
		s.Skip("the driver restores no machines")
	}
	return r
}

// saveAndRestore makes two machines of one, which all continue.
func (s *suite) saveAndRestore() {
	m := s.h.Machine(s)
	in := s.booted(m)
	from := s.save(in)
	if _, err := from.Device.Seek(3, 0); err != nil { // the offset of the file does not matter
		s.Fatal(err)
	}
	before, err := os.ReadFile(from.MemoryPath)
	if err != nil {
		s.Fatal(err)
	}
	var intended vmm.State
	one := s.restore(like(s.h.Machine(s), m), from, ignore)
	adopting := like(s.h.Machine(s), m)
	other := s.restore(adopting, from, func(state vmm.State) error {
		intended = bytes.Clone(state)
		return nil
	})
	for _, in := range []vmm.Instance{in, one} {
		s.press(in)
		s.poweredOff(in)
	}
	s.close(other)
	again := s.adopted(intended, adopting.RunDir)
	if again.PID() != other.PID() || !bytes.Equal(again.State(), other.State()) {
		s.Errorf("the intended state of a restored machine leads to process %d with %s, not %d with %s",
			again.PID(), again.State(), other.PID(), other.State())
	}
	s.press(again)
	s.poweredOff(again)
	s.gone(intended, adopting.RunDir)
	after, err := os.ReadFile(from.MemoryPath)
	if err != nil || !bytes.Equal(before, after) {
		s.Errorf("restored machines change the memory file (%v)", err)
	}
}

// memoryLayout restores from layouts that are right, missing, or wrong.
func (s *suite) memoryLayout() {
	m := s.h.Machine(s)
	in := s.booted(m)
	from := s.save(in)
	data, err := json.Marshal(from.Layout)
	if err != nil {
		s.Fatalf("a memory layout cannot be stored: %v", err)
	}
	stored, err := vmm.DecodeMemoryLayout(data)
	if err != nil {
		s.Fatalf("a layout that the driver reports cannot be read: %s: %v", data, err)
	}
	if _, err := from.Regions(m.Memory); err != nil {
		s.Errorf("the layout that the driver reports does not describe the memory file: %v", err)
	}
	for name, layout := range map[string]*vmm.MemoryLayout{"a stored": stored, "no": nil} {
		c := from
		c.Layout = layout
		s.Logf("restoring with %s layout", name)
		fork := s.restore(like(s.h.Machine(s), m), c, ignore)
		s.press(fork)
		s.poweredOff(fork)
	}
	wrong := *stored
	wrong.Regions = append([]vmm.MemoryRegion(nil), stored.Regions...)
	wrong.Regions[len(wrong.Regions)-1].Address += 1 << 41
	c := from
	c.Layout = &wrong
	other := like(s.h.Machine(s), m)
	if in, err := s.restorer().Restore(s.ctx, other, c, ignore); err == nil {
		s.Error("memory at another address is not refused")
		s.later(in, other.RunDir)
	}
}

// generations forks a machine, and then forks the fork. In between the files are removed, and the
// fork is adopted.
func (s *suite) generations() {
	m := s.h.Echo(s)
	in, parent := s.saver(s.start(m, ignore)), m
	kept := []string{"a", "b", "c"}
	for i, word := range kept {
		s.echo(in, "keep "+word)
		from := s.save(in)
		s.echo(in, "keep nothing") // the parent continues, and its fork does not notice
		child := like(s.h.Echo(s), m)
		fork := s.restore(child, from, ignore)
		s.kill(in.State(), parent.RunDir)
		remove := []error{os.Remove(from.MemoryPath), os.Remove(from.DevicePath), from.Memory.Close(), from.Device.Close()}
		if err := errors.Join(remove...); err != nil {
			s.Fatal(err)
		}
		if i == 1 {
			s.close(fork)
			fork = s.saver(s.adopted(fork.State(), child.RunDir))
		}
		s.ask(fork, "kept", "kept "+word)
		in, parent = fork, child
	}
	s.press(in)
	s.poweredOff(in)
}

// failedRestore restores from damaged checkpoints.
func (s *suite) failedRestore() {
	saved := s.h.Machine(s)
	from := s.save(s.booted(saved))
	state, err := os.ReadFile(from.DevicePath)
	if err != nil {
		s.Fatal(err)
	}
	flipped := bytes.Clone(state)
	flipped[len(flipped)/2] ^= 1
	short := s.request().Memory
	if err := short.Truncate(1 << 20 >> 1); err != nil {
		s.Fatal(err)
	}
	shortMemory := from
	shortMemory.Memory, shortMemory.MemoryPath = short, short.Name()
	shortOld := shortMemory
	shortOld.Layout = nil
	broken := errors.New("broken")
	var cancel context.CancelCauseFunc
	for name, c := range map[string]struct {
		from   vmm.Checkpoint
		intend func() error
		want   error
	}{
		"no state":            {from: s.withState(from, nil)},
		"half a state":        {from: s.withState(from, state[:len(state)/2])},
		"a byte less":         {from: s.withState(from, state[:len(state)-1])},
		"a byte more":         {from: s.withState(from, append(bytes.Clone(state), 0))},
		"a bit flipped":       {from: s.withState(from, flipped)},
		"short memory":        {from: shortMemory},
		"short memory, old":   {from: shortOld},
		"state is not stored": {from: from, intend: func() error { return broken }, want: broken},
		"canceled in between": {from: from, intend: func() error { cancel(broken); return nil }, want: broken},
	} {
		m := like(s.h.Machine(s), saved)
		before := s.entries(m.RunDir)
		var stored vmm.State
		var ctx context.Context
		ctx, cancel = context.WithCancelCause(s.ctx)
		in, err := s.restorer().Restore(ctx, m, c.from, func(state vmm.State) error {
			stored = bytes.Clone(state)
			if c.intend != nil {
				return c.intend()
			}
			return nil
		})
		cancel(nil)
		if err == nil {
			s.Errorf("%s: the restore does not fail", name)
			_ = in.Close()
			s.kill(in.State(), m.RunDir)
			continue
		}
		if c.want != nil && !errors.Is(err, c.want) {
			s.Errorf("%s: the restore fails with another error: %v", name, err)
		}
		s.Logf("%s: %v", name, err)
		s.nothingLeft(m, before, stored)
	}
}

// withState returns a checkpoint with another state of the devices.
func (s *suite) withState(c vmm.Checkpoint, state []byte) vmm.Checkpoint {
	s.Helper()
	f, err := os.Create(filepath.Join(s.TempDir(), "device"))
	if err != nil {
		s.Fatal(err)
	}
	s.ends = append(s.ends, func() { _ = f.Close() })
	if _, err := f.Write(state); err != nil {
		s.Fatal(err)
	}
	c.Device, c.DevicePath = f, f.Name()
	return c
}
