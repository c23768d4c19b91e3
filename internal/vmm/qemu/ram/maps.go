package ram

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"banger/internal/fault"
)

// Backing is what a region is a private mapping of.
type Backing int

// The backings.
const (
	Nothing Backing = iota
	File            // from its beginning
)

// Look tells what a region is a mapping of. One that is not a private mapping of one thing throughout is fault.Unsupported.
func Look(r Region) (Backing, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(r.PID) + "/maps")
	if err != nil {
		return 0, fmt.Errorf("looking for the guest's memory: %w", err)
	}
	return backing(data, r)
}

// mapping is a line of /proc/PID/maps (proc_pid_maps(5)).
type mapping struct {
	start, end, offset uint64
	perms, device      string
	inode              uint64 // 0: of nothing
}

func backing(maps []byte, r Region) (Backing, error) {
	next, end := r.Addr, r.Addr+uint64(r.Size)
	var first *mapping
	for line := range bytes.Lines(maps) {
		m, err := parseMapping(line)
		if err != nil {
			return 0, err
		}
		if m.end <= next || next >= end {
			continue
		}
		if first == nil {
			first = &m
		}
		private := len(m.perms) == 4 && m.perms[:2] == "rw" && m.perms[3] == 'p'
		same := m.device == first.device && m.inode == first.inode
		if m.start > next || !private || !same || m.inode != 0 && m.offset+(next-m.start) != next-r.Addr {
			break
		}
		next = m.end // the kernel splits what it treats differently
	}
	if next < end || first == nil {
		return 0, fault.New(fault.Unsupported, "process %d does not have the guest's memory at %#x as one private mapping", r.PID, r.Addr)
	}
	if first.inode != 0 {
		return File, nil
	}
	return Nothing, nil
}

func parseMapping(line []byte) (mapping, error) {
	var m mapping
	if n, _ := fmt.Sscanf(string(line), "%x-%x %s %x %s %d", &m.start, &m.end, &m.perms, &m.offset, &m.device, &m.inode); n != 6 {
		return mapping{}, fmt.Errorf("%.80q is no line of a process's maps", line)
	}
	return m, nil
}
