// Package fake is a driver whose machines exist in memory only, for the tests of packages that use drivers. It passes the drivers'
// conformance suite.
//
// A Host stands for the computer: machines live on it. A Driver stands for what a daemon has: make another one on the same Host and the
// daemon was restarted. Options let a test play the guest and make any operation fail.
package fake

import (
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
	for _, m := range h.machines {
		if m.ID == id {
			h.endLocked(m, exit)
			return true
		}
	}
	return false
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

func (h *Host) start(desc vmm.Machine) *machine {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := &machine{Machine: desc, pid: firstPID + h.started, ended: make(chan struct{})}
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
