package memory

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
)

// Backing is what the regions of a guest's memory map: a file, each region at its offset, or
// Nothing. Some file systems, such as btrfs, have another device in their answer to stat(2).
type Backing struct{ Device, Inode uint64 }

// Nothing is the Backing of memory that maps no file.
var Nothing Backing

// Look returns what the regions of a process map. Each must be a private mapping, and all must map
// the same. Otherwise the error is fault.Unsupported.
func Look(pid int, regions []Region) (Backing, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/maps")
	if err != nil {
		return Nothing, fmt.Errorf("finding the guest's memory: %w", err)
	}
	return backing(data, regions)
}

// mapping is a line of /proc/PID/maps (proc_pid_maps(5)).
type mapping struct {
	start, end, offset uint64
	perms, device      string
	inode              uint64 // 0: it maps nothing
}

func backing(maps []byte, regions []Region) (Backing, error) {
	var list []mapping
	for line := range bytes.Lines(maps) {
		m, err := parseMapping(line)
		if err != nil {
			return Nothing, err
		}
		list = append(list, m)
	}
	var first *mapping
	for _, r := range regions {
		m := cover(list, r)
		if m == nil || first != nil && (m.device != first.device || m.inode != first.inode) {
			return Nothing, fault.New(fault.Unsupported, "the guest's memory at %#x is not one private mapping", r.Addr)
		}
		first = m
	}
	if first == nil || first.inode == 0 {
		return Nothing, nil
	}
	var major, minor uint32
	if n, _ := fmt.Sscanf(first.device, "%x:%x", &major, &minor); n != 2 {
		return Nothing, fmt.Errorf("%.20q is not a device of a process's maps", first.device)
	}
	return Backing{Device: unix.Mkdev(major, minor), Inode: first.inode}, nil
}

// cover returns the first of the mappings that together are one private mapping of a region. The
// kernel splits a mapping where it treats parts differently. If there is none, it returns nil.
func cover(list []mapping, r Region) *mapping {
	next, end := r.Addr, r.Addr+uint64(r.Size)
	var first *mapping
	for i := range list {
		m := &list[i]
		if m.end <= next || next >= end {
			continue
		}
		if first == nil {
			first = m
		}
		private := len(m.perms) == 4 && m.perms[:2] == "rw" && m.perms[3] == 'p'
		same := m.device == first.device && m.inode == first.inode
		inPlace := m.inode == 0 || m.offset+(next-m.start) == uint64(r.Offset)+(next-r.Addr)
		if m.start > next || !private || !same || !inPlace {
			return nil
		}
		next = m.end
	}
	if next < end {
		return nil
	}
	return first
}

func parseMapping(line []byte) (mapping, error) {
	var m mapping
	n, _ := fmt.Sscanf(string(line), "%x-%x %s %x %s %d", &m.start, &m.end, &m.perms, &m.offset, &m.device, &m.inode)
	if n != 6 {
		return mapping{}, fmt.Errorf("%.80q is not a line of a process's maps", line)
	}
	return m, nil
}
