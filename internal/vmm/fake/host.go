// Package fake is a driver whose machines exist in memory only, for the tests of packages that use
// drivers. It passes the conformance suite of drivers.
//
// A Host stands for the computer on which machines run. A Driver stands for the driver of one
// daemon: another Driver on the same Host stands for a restarted daemon. Options let a test play
// the guest, and make any operation fail.
package fake

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"banger/internal/fault"
	"banger/internal/vmm"
)

// firstPID is above every pid of Linux (PID_MAX_LIMIT, include/linux/threads.h). So a signal that
// a test sends to a fake machine's pid by mistake hits no process.
const firstPID = 1<<22 + 1

// Host is where fake machines run. It is safe for concurrent use.
type Host struct {
	mu       sync.Mutex
	started  int
	machines map[string]*machine // those that run, by run directory
	full     map[string]bool     // whether there is no room for what a machine writes, by its id
}

// machine is a fake machine that was started.
type machine struct {
	vmm.Machine
	pid   int
	open  []*os.File    // its drives
	ended chan struct{} // closed when exit is set
	exit  vmm.Exit

	saving  bool
	runs    chan struct{} // closed while the machine is not halted
	halted  bool
	stuck   bool      // it was halted because there was no room for a write
	pressed *vmm.Exit // how it ends when it continues: the power button of a halted machine
	memory  []byte    // what its guest keeps there
}

// NewHost returns a host without machines.
func NewHost() *Host { return &Host{machines: map[string]*machine{}, full: map[string]bool{}} }

// Running returns the descriptions of the machines that run, ordered by id.
func (h *Host) Running() []vmm.Machine {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []vmm.Machine
	for _, m := range h.machines {
		list = append(list, m.Machine)
	}
	slices.SortFunc(list, func(a, b vmm.Machine) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return list
}

// End ends the machine of a VM, as if by itself. It reports whether the machine was running.
func (h *Host) End(id string, exit vmm.Exit) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.findLocked(id)
	if m != nil {
		h.endLocked(m, exit)
	}
	return m != nil
}

// Reopen makes the machine of a VM open its drives anew, for a test that has put their files back.
func (h *Host) Reopen(id string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.findLocked(id)
	if m == nil {
		return nil
	}
	open, err := openAll(m.Drives)
	if err != nil {
		return err
	}
	for _, f := range m.open {
		_ = f.Close()
	}
	m.open = open
	return nil
}

// Descriptors returns those of this process by which machines have their drives open.
func (h *Host) Descriptors() (fds []int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.machines {
		for _, f := range m.open {
			fds = append(fds, int(f.Fd()))
		}
	}
	return fds
}

// others returns the paths whose files a machine does not have open: see vmm.FileHolder.
func (h *Host) others(m *machine, paths []string) (map[string]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	others := map[string]string{}
	for _, path := range paths {
		want, _ := os.Stat(path)
		is, other := false, ""
		for i, d := range m.Drives {
			got, err := m.open[i].Stat()
			if err != nil { // the machine has ended
				return nil, err
			}
			is = is || want != nil && os.SameFile(want, got)
			if filepath.Base(d.Path) == filepath.Base(path) {
				other = fmt.Sprintf("/proc/self/fd/%d", m.open[i].Fd())
			}
		}
		if !is {
			others[path] = other
		}
	}
	return others, nil
}

// SetMemory plays a guest that has data in its memory: a Save saves the data, and machines that are
// restored from there have it. If no such machine runs, nothing happens.
func (h *Host) SetMemory(id string, data []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.findLocked(id); m != nil {
		m.memory = bytes.Clone(data)
	}
}

// Memory returns what the guest of a VM has in its memory.
func (h *Host) Memory(id string) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.findLocked(id); m != nil {
		return bytes.Clone(m.memory)
	}
	return nil
}

// Halted reports whether the machine of a VM is there and halted.
func (h *Host) Halted(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.findLocked(id)
	return m != nil && m.halted
}

// SetFull makes the host have no room for what the machine of a VM writes, or room again.
func (h *Host) SetFull(id string, full bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.full[id] = full
}

// Write plays a guest that writes to its drives. Without room the machine halts, and the write is
// tried again when the machine is resumed. Write returns when there was room, or no such machine
// runs.
func (h *Host) Write(id string) {
	for {
		h.mu.Lock()
		m := h.findLocked(id)
		if m == nil || !h.full[id] {
			h.mu.Unlock()
			return
		}
		m.stuck = true
		h.haltLocked(m, true)
		runs := m.runs
		h.mu.Unlock()
		select {
		case <-runs:
		case <-m.ended:
		}
	}
}

// haltOf returns whether and why a machine is halted.
func (h *Host) haltOf(m *machine) vmm.Halt {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case m.halted && m.stuck:
		return vmm.HaltedFull
	case m.halted:
		return vmm.Halted
	}
	return vmm.NotHalted
}

func (h *Host) findLocked(id string) *machine {
	for _, m := range h.machines {
		if m.ID == id {
			return m
		}
	}
	return nil
}

// halt halts a machine or continues it. It reports whether the machine was halted before.
func (h *Host) halt(m *machine, halted bool) (before bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.haltLocked(m, halted)
}

func (h *Host) haltLocked(m *machine, halted bool) (before bool) {
	before = m.halted
	if !halted {
		m.stuck = false
	}
	switch m.halted = halted; {
	case halted && !before:
		m.runs = make(chan struct{})
	case !halted && before:
		close(m.runs)
		if m.pressed != nil {
			h.endLocked(m, *m.pressed)
		}
	}
	return before
}

// press presses the power button, by which the guest ends. A halted guest sees it when it
// continues.
func (h *Host) press(m *machine, exit vmm.Exit) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m.halted {
		m.pressed = &exit
	} else {
		h.endLocked(m, exit)
	}
}

// running returns a channel that is closed while the machine is not halted.
func (h *Host) running(m *machine) <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return m.runs
}

func (h *Host) endLocked(m *machine, exit vmm.Exit) {
	if h.machines[m.RunDir] == m {
		delete(h.machines, m.RunDir)
		m.exit = exit
		for _, f := range m.open {
			_ = f.Close()
		}
		close(m.ended)
	}
}

func (h *Host) end(m *machine, exit vmm.Exit) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.endLocked(m, exit)
}

func (h *Host) start(desc vmm.Machine, open []*os.File, memory []byte) *machine {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := &machine{
		Machine: desc, pid: firstPID + h.started, open: open, memory: memory,
		ended: make(chan struct{}), runs: make(chan struct{}),
	}
	close(m.runs)
	h.started++
	h.machines[desc.RunDir] = m
	return m
}

// find finds the machine that has a run directory; pid 0 stands for any.
func (h *Host) find(runDir string, pid int) (*machine, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.machines[runDir]
	if m == nil || pid != 0 && m.pid != pid {
		return nil, fault.New(fault.NotFound, "no fake machine runs in %s", runDir)
	}
	return m, nil
}

// lockSave begins a save. It returns false if another save of the machine is under way.
func (h *Host) lockSave(m *machine) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	free := !m.saving
	m.saving = true
	return free
}

func (h *Host) unlockSave(m *machine) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m.saving = false
}
