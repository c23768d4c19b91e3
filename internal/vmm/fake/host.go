// Package fake is a driver whose machines exist in memory only, for the tests of packages that use drivers. It passes the drivers'
// conformance suite.
//
// A Host stands for the computer: machines live on it. A Driver stands for what a daemon has: make another one on the same Host and the
// daemon was restarted. Options let a test play the guest and make any operation fail.
package fake

import (
	"bytes"
	"slices"
	"sync"

	"banger/internal/fault"
	"banger/internal/vmm"
)

// firstPID is beyond what Linux gives to processes (PID_MAX_LIMIT, include/linux/threads.h): nobody is hit by a signal that a test sends
// to a fake machine's pid by mistake.
const firstPID = 1<<22 + 1

// Host is where fake machines live. It is safe for concurrent use.
type Host struct {
	mu       sync.Mutex
	started  int
	machines map[string]*machine // by run folder; those that run
}

// machine is a fake machine that was started.
type machine struct {
	vmm.Machine
	pid   int
	ended chan struct{} // closed when exit is set
	exit  vmm.Exit

	saving  bool
	goes    chan struct{} // closed while the machine is not halted
	halted  bool
	pressed bool   // the power button, while it was halted
	memory  []byte // what its guest keeps there
}

// NewHost returns a host without machines.
func NewHost() *Host { return &Host{machines: map[string]*machine{}} }

// Running returns what the machines that run were started with, in the order of their ids.
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

// End ends the machine of a VM as if by itself. It tells whether one was running.
func (h *Host) End(id string, exit vmm.Exit) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.findLocked(id)
	if m != nil {
		h.endLocked(m, exit)
	}
	return m != nil
}

// SetMemory plays a guest that keeps data in its memory: a Save keeps it, and what is restored from that has it. No machine is no
// guest.
func (h *Host) SetMemory(id string, data []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.findLocked(id); m != nil {
		m.memory = bytes.Clone(data)
	}
}

// Memory returns what the guest of a VM keeps in its memory.
func (h *Host) Memory(id string) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.findLocked(id); m != nil {
		return bytes.Clone(m.memory)
	}
	return nil
}

// Halted tells whether the machine of a VM is there and halted.
func (h *Host) Halted(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.findLocked(id)
	return m != nil && m.halted
}

func (h *Host) findLocked(id string) *machine {
	for _, m := range h.machines {
		if m.ID == id {
			return m
		}
	}
	return nil
}

// halt halts a machine or lets it go on. It tells whether it was halted before.
func (h *Host) halt(m *machine, halted bool) (before bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before = m.halted
	switch m.halted = halted; {
	case halted && !before:
		m.goes = make(chan struct{})
	case !halted && before:
		close(m.goes)
		if m.pressed {
			h.endLocked(m, vmm.Exit{Reason: vmm.ExitPowerOff})
		}
	}
	return before
}

// press presses the power button, which a halted guest sees when it goes on.
func (h *Host) press(m *machine) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m.pressed = m.halted; !m.halted {
		h.endLocked(m, vmm.Exit{Reason: vmm.ExitPowerOff})
	}
}

// going is closed while the machine is not halted.
func (h *Host) going(m *machine) <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return m.goes
}

func (h *Host) endLocked(m *machine, exit vmm.Exit) {
	if h.machines[m.RunDir] == m {
		delete(h.machines, m.RunDir)
		m.exit = exit
		close(m.ended)
	}
}

func (h *Host) end(m *machine, exit vmm.Exit) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.endLocked(m, exit)
}

func (h *Host) start(desc vmm.Machine, memory []byte) *machine {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := &machine{Machine: desc, pid: firstPID + h.started, ended: make(chan struct{}), goes: make(chan struct{}), memory: memory}
	close(m.goes)
	h.started++
	h.machines[desc.RunDir] = m
	return m
}

// find finds the machine in a run folder; pid 0 stands for any.
func (h *Host) find(runDir string, pid int) (*machine, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.machines[runDir]
	if m == nil || pid != 0 && m.pid != pid {
		return nil, fault.New(fault.NotFound, "no fake machine runs in %s", runDir)
	}
	return m, nil
}

// lockSave tells whether nobody else saves the machine.
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
