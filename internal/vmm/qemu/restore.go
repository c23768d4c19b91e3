package qemu

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/pace"
	"banger/internal/vmm"
	"banger/internal/vmm/memory"
)

// Restore makes a machine that continues from a checkpoint: see vmm.Restorer.
func (d *Driver) Restore(ctx context.Context, m vmm.Machine, from vmm.Checkpoint, intend func(vmm.State) error) (vmm.Instance, error) {
	in, err := d.start(ctx, m, &from, intend)
	if err != nil {
		return nil, fmt.Errorf("restoring machine %s: %w", m.ID, err)
	}
	return in, nil
}

// loadPoll is how often a machine that loads its state is asked whether it failed without ending.
// That it runs is an event.
const loadPoll = 50 * time.Millisecond

// errHalted means that a machine has loaded its state and does not run. QEMU's log has the reason.
var errHalted = errors.New("the restored machine does not run")

// loaded waits until a restored machine runs, which it does by itself.
func loaded(ctx context.Context, in *instance) error {
	ctx, cancel := pace.Context(ctx, greetTimeout, "restored machine that runs")
	defer cancel()
	poll := time.NewTicker(loadPoll)
	defer poll.Stop()
	for {
		status, err := in.status(ctx)
		switch {
		case err != nil:
			return err
		case status.Running:
			return nil
		case status.Status != "inmigrate":
			return errHalted
		}
		select {
		case <-in.seen.resumed:
		case <-poll.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// inherit adds a checkpoint's files to those of a process. It opens them again, because processes
// that inherit the same open file share its offset.
func (f *files) inherit(ctx context.Context, from *vmm.Checkpoint, size model.Bytes) error {
	if err := memory.Reserve(ctx, from.Memory); err != nil { // unless Save has made the file
		return err
	}
	mapped, err := reopen(from.Memory, os.O_RDONLY)
	if err != nil {
		return fmt.Errorf("opening the checkpoint's memory: %w", err)
	}
	f.list = append(f.list, mapped)
	regions, err := from.Regions(size)
	if err != nil {
		return err
	}
	if from.Layout != nil && !slices.Equal(regions, layout(size).Regions) {
		return fault.New(fault.Invalid, "the checkpoint's memory does not lie where QEMU has it: %+v", regions)
	}
	device, err := reopen(from.Device, os.O_RDONLY)
	if err != nil {
		return fmt.Errorf("opening the checkpoint's devices: %w", err)
	}
	f.list = append(f.list, device)
	return checkSeal(device)
}

func reopen(f *os.File, flag int) (*os.File, error) {
	return os.OpenFile("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), flag, 0)
}

// QEMU detects some damage of a state, and believes the rest. So a state ends with a mark and a
// checksum. QEMU does not read them: it stops at the end of what it wrote.
const (
	sealMark  = "banger/1"
	sealSize  = len(sealMark) + sha256.Size
	maxDevice = 64 << 20 // bytes; a state has about 30 KB
)

// seal writes a state with the mark and the checksum, and returns the size.
func seal(state, to *os.File) (model.Bytes, error) {
	data, err := io.ReadAll(io.NewSectionReader(state, 0, maxDevice))
	if err != nil {
		return 0, fmt.Errorf("sealing the devices' state: %w", err)
	}
	sum := sha256.Sum256(data)
	n, err := to.Write(slices.Concat(data, []byte(sealMark), sum[:]))
	if err != nil {
		return 0, fmt.Errorf("sealing the devices' state: %w", err)
	}
	return model.Bytes(n), nil
}

// isMemfd reports whether a file is a memfd. A file at the root of the file system could look like
// one, but banger keeps no memory there.
func isMemfd(f *os.File) bool {
	place, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
	return err == nil && strings.HasPrefix(place, "/memfd:")
}

// isSealed reports whether nobody can write to a file.
func isSealed(f *os.File) bool {
	seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	return err == nil && seals&unix.F_SEAL_WRITE != 0
}

// checkSeal refuses a state that has changed since it was saved.
func checkSeal(f *os.File) error {
	data, err := io.ReadAll(io.NewSectionReader(f, 0, maxDevice))
	if err != nil {
		return fmt.Errorf("reading the checkpoint's devices: %w", err)
	}
	end := max(0, len(data)-sealSize)
	sum := sha256.Sum256(data[:end])
	if !bytes.Equal(data[end:], append([]byte(sealMark), sum[:]...)) {
		return fault.New(fault.Invalid, "the checkpoint's state of the devices is damaged: its checksum is wrong")
	}
	return nil
}
