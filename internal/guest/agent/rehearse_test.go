package agent

import (
	"fmt"
	"os/exec"
	"testing"
)

// TestNoop runs the program on this machine's kernel.
func TestNoop(t *testing.T) {
	if noopProgram == "" {
		t.Skip("there is none for this architecture")
	}
	program, err := newProgram()
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	if _, err := program.WriteString(noopProgram); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(fmt.Sprintf("/proc/self/fd/%d", program.Fd())).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("it does not end well: %v, %q", err, out)
	}
	a, _ := testAgent(t)
	a.processes.table.Halt() // as the machine is when it counts
	if err := a.hello.rehearsal.runNoop(); err != nil {
		t.Error(err)
	}
}
