package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// LostDir reports whether the directory was removed in which the process works.
func (p *Process) LostDir() bool {
	name, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(p.id.PID), "cwd"))
	return err == nil && strings.HasSuffix(name, deletedMark)
}

// Machine is a VMM that was found by its working directory.
type Machine struct {
	PID int
	Dir string // its run directory, where that is or was
	// Gone is whether the run directory was removed.
	Gone bool
}

// Machines lists the confined VMMs of this user whose run directory has a name that isID accepts.
// It finds them also if that directory was moved or removed. Without a confinement, a VMM works
// there, too; one that an earlier version started may not.
func Machines(isID func(string) bool) ([]Machine, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	var found []Machine
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		name, err := os.Readlink(filepath.Join("/proc", e.Name(), "cwd"))
		if err != nil {
			continue
		}
		dir, gone := strings.CutSuffix(name, deletedMark)
		if isID(filepath.Base(dir)) && isConfined(pid) {
			found = append(found, Machine{PID: pid, Dir: dir, Gone: gone})
		}
	}
	return found, nil
}
