package agent

import (
	"strconv"

	"banger/internal/guest/agent/hook"
)

// generationFile holds how many identities came after the first, for programs of the guest.
const generationFile = bangerDir + "/generation"

// forkFinisher does what only a fork needs.
type forkFinisher struct {
	life      *life
	processes *processes
	hooks     *hook.Service
}

// finish makes a machine with a new identity a fork, and then lets all processes continue. The
// caller holds life.change.
func (f *forkFinisher) finish(hostname string) error {
	forks := f.life.fork()
	if err := renewBootID(); err != nil {
		return err
	}
	renewSeed()
	generation := strconv.Itoa(forks)
	if err := writeAtomically(generationFile, generation+"\n", 0o644); err != nil {
		return err
	}
	if err := f.hooks.Run(hook.Dir, "BANGER_NAME="+hostname, "BANGER_GENERATION="+generation); err != nil {
		return err
	}
	return f.processes.resume(true)
}
