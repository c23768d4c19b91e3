package vmm

import (
	"encoding/json"
	"fmt"

	"banger/internal/fault"
	"banger/internal/model"
)

// MemoryLayout says where a guest's memory lies in a memory file. Whoever keeps the file stores the
// layout beside it: json.Marshal writes it, DecodeMemoryLayout reads it.
type MemoryLayout struct {
	Version int            `json:"version"` // layoutVersion
	Regions []MemoryRegion `json:"regions"` // ordered by address, and by offset
}

// MemoryRegion is a contiguous part of a guest's memory.
type MemoryRegion struct {
	Address int64       `json:"address"` // guest-physical
	Size    model.Bytes `json:"size"`
	Offset  int64       `json:"offset"` // in the file
}

const (
	layoutVersion = 1
	maxRegions    = 64      // a machine has one below the hole under 4 GiB and one above it
	maxAddress    = 1 << 52 // the widest guest-physical address of x86
	regionUnit    = 4096    // a page
)

// NewMemoryLayout returns a layout of the present version.
func NewMemoryLayout(regions ...MemoryRegion) *MemoryLayout {
	return &MemoryLayout{Version: layoutVersion, Regions: regions}
}

// DecodeMemoryLayout reads a layout. No data gives nil: see Checkpoint.Layout. The data may come
// from elsewhere, so the result is checked: its regions are in order, and do not overlap.
func DecodeMemoryLayout(data []byte) (*MemoryLayout, error) {
	if len(data) == 0 {
		return nil, nil
	}
	var l MemoryLayout
	if err := json.Unmarshal(data, &l); err != nil {
		return nil, fault.New(fault.Invalid, "decoding the layout of a guest's memory: %w", err)
	}
	if l.Version != layoutVersion {
		return nil, fault.New(fault.Unsupported, "decoding the layout of a guest's memory: version %d is not %d",
			l.Version, layoutVersion)
	}
	return &l, l.check()
}

// check refuses regions that cannot be.
func (l *MemoryLayout) check() error {
	if n := len(l.Regions); n == 0 || n > maxRegions {
		return fault.New(fault.Invalid, "the layout of a guest's memory has %d regions, not 1 to %d", n, maxRegions)
	}
	var address, offset int64
	for i, r := range l.Regions {
		ok := r.Size > 0 && r.Size < maxAddress && r.Size%regionUnit == 0 &&
			r.Address >= address && r.Address < maxAddress && r.Address%regionUnit == 0 &&
			r.Offset >= offset && r.Offset < maxAddress && r.Offset%regionUnit == 0
		if !ok {
			return fault.New(fault.Invalid,
				"the layout of a guest's memory has a bad region %d: %d bytes at address %#x and offset %d", i, int64(r.Size), r.Address, r.Offset)
		}
		address, offset = r.Address+int64(r.Size), r.Offset+int64(r.Size)
	}
	return nil
}

// Regions returns where the guest's memory lies in the memory file. If the regions are not exactly
// the memory of such a machine, or the file does not end with the last of them, the error is
// fault.Invalid.
func (c Checkpoint) Regions(memory model.Bytes) ([]MemoryRegion, error) {
	info, err := c.Memory.Stat()
	if err != nil {
		return nil, fmt.Errorf("measuring the checkpoint's memory: %w", err)
	}
	layout := c.Layout
	if layout == nil {
		layout = NewMemoryLayout(MemoryRegion{Size: model.Bytes(info.Size())})
	}
	if err := layout.check(); err != nil {
		return nil, fmt.Errorf("reading the checkpoint: %w", err)
	}
	return layout.Regions, layout.Fits(memory, model.Bytes(info.Size()))
}

// Fits refuses a layout whose regions are not exactly the memory of a machine, or a file that does
// not end with the last of them.
func (l *MemoryLayout) Fits(memory, file model.Bytes) error {
	var sum model.Bytes
	for _, r := range l.Regions {
		sum += r.Size
	}
	if sum != memory {
		return fault.New(fault.Invalid, "the checkpoint holds %v of memory, the machine has %v", sum, memory)
	}
	last := l.Regions[len(l.Regions)-1]
	if end := model.Bytes(last.Offset) + last.Size; file != end {
		return fault.New(fault.Invalid, "the checkpoint's memory file has %d bytes, its regions end at %d", int64(file), int64(end))
	}
	return nil
}
