package qemu

import (
	"encoding/json"
	"fmt"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// stateVersion changes when drivers of both sides of the change must not adopt each other's
// machines.
const stateVersion = 1

// state is the content of a vmm.State.
type state struct {
	Version    int         `json:"version"`
	ID         string      `json:"id"`
	RunDir     string      `json:"run_dir"`
	ConsoleLog string      `json:"console_log"`
	ConsoleMax model.Bytes `json:"console_max"`
	VMMLog     string      `json:"vmm_log"`
	// Process is nil if it was only intended. Then the lock in RunDir leads to the process.
	Process *process.ID `json:"process,omitempty"`
	// Protection is nil if an older version started the machine.
	Protection model.Protection `json:"protection,omitempty"`
	// Memory is the size of the machine's memory. It is 0 if an older version started it.
	Memory model.Bytes `json:"memory,omitempty"`
	// Drives are the files that the machine may write: unset if an older version started it.
	Drives []string `json:"drives,omitempty"`
	// WireHolder is the process that keeps the host's end of the NICWire. It is nil if the machine
	// has none, or if this host has no such processes.
	WireHolder *process.ID `json:"wire_holder,omitempty"`
	// Base is the memory file that the machine was restored from. It is nil if the machine booted,
	// or if an older version started it.
	Base *fileID `json:"base,omitempty"`
	// BaseDir is the directory that Base had then.
	BaseDir string `json:"base_dir,omitempty"`
}

func intended(m vmm.Machine) state {
	s := state{
		Version: stateVersion, ID: m.ID, RunDir: m.RunDir,
		ConsoleLog: m.ConsoleLog, ConsoleMax: m.ConsoleMax, VMMLog: m.VMMLog, Memory: m.Memory,
	}
	for _, d := range m.Drives {
		if !d.ReadOnly {
			s.Drives = append(s.Drives, d.Path)
		}
	}
	return s
}

func (s state) encode() (vmm.State, error) {
	data, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encoding the machine's state: %w", err)
	}
	return data, nil
}

func decodeState(data vmm.State) (state, error) {
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return state{}, fault.New(fault.Invalid, "decoding a machine's state: %w", err)
	}
	if s.Version != stateVersion {
		return state{}, fault.New(fault.Unsupported, "decoding a machine's state: version %d is not %d", s.Version, stateVersion)
	}
	return s, nil
}
