package agent

import "testing"

// TestNothing runs the program on this machine's own kernel.
func TestNothing(t *testing.T) {
	if nothing == "" {
		t.Skip("there is none for this architecture")
	}
	a, _ := newAgent(t)
	a.procs.Halt() // as the machine is when it counts
	if err := a.runNothing(); err != nil {
		t.Error(err)
	}
}
