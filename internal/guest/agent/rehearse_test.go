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

func TestAtRest(t *testing.T) {
	a, _ := newAgent(t)
	for p, want := range map[phase]bool{anonymous: true, frozen: true, assuming: false, assumed: false, spoiled: false} {
		a.enter(p)
		if got := a.atRest(); got != want {
			t.Errorf("in phase %d: %v", p, got)
		}
	}
}
