package qemu_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/vmm"
	"banger/internal/vmm/qemu"
)

// daemonEnv makes the test's program play a daemon. It starts the machine that the variable holds,
// prints the intended state and the final one, and waits until it is killed.
const daemonEnv = "BANGER_TEST_QEMU_DAEMON"

func daemon() {
	var m vmm.Machine
	if err := json.Unmarshal([]byte(os.Getenv(daemonEnv)), &m); err != nil {
		panic(err)
	}
	in, err := qemu.New(qemu.Config{}).Start(deadline(nobody{}), m, func(s vmm.State) error {
		fmt.Printf("%s\n", s)
		return nil
	})
	if err != nil {
		panic(err)
	}
	fmt.Printf("%s\n", in.State())
	select {}
}

// nobody stands for a test in a program that is none.
type nobody struct{ testing.TB }

func (nobody) Cleanup(func()) {}

// TestDaemonDies kills a daemon at various moments of a start. At each moment, the intended state
// shows another daemon whether there is a machine, and leads to it.
func TestDaemonDies(t *testing.T) {
	found := 0
	for i := range 8 {
		m := machine(t, tiny{then: off})
		intended, started := play(t, m, time.Duration(i)*time.Millisecond, i == 0)
		for _, state := range []vmm.State{intended, started} {
			if state == nil {
				continue
			}
			in, err := adopt(t, state)
			if fault.KindOf(err) == fault.NotFound {
				if left := processes(t, m.ID); len(left) != 0 {
					t.Errorf("moment %d: a state does not lead to the processes that are left: %v", i, left)
				}
				continue
			} else if err != nil {
				t.Fatal(err)
			}
			found++
			if bytes.Equal(state, started) || started == nil {
				if exit := endBy(t, in); exit.Reason != vmm.ExitPowerOff {
					t.Errorf("moment %d: an adopted machine does not power off: %+v", i, exit)
				}
			}
			if err := in.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if found < 2 {
		t.Errorf("the states of a started machine do not lead to it: %d machines found", found)
	}
}

// play lets a daemon start a machine, and kills the daemon: some time after it printed the intended
// state, or after it printed the final one.
func play(t *testing.T, m vmm.Machine, after time.Duration, finish bool) (intended, started vmm.State) {
	t.Helper()
	desc, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), daemonEnv+"="+string(desc))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGKILL)
		_ = cmd.Wait()
	}()
	lines := bufio.NewScanner(out)
	if lines.Scan() {
		intended = bytes.Clone(lines.Bytes())
	}
	if finish && lines.Scan() {
		started = bytes.Clone(lines.Bytes())
	} else {
		time.Sleep(after)
	}
	return intended, started
}

// processes lists the processes whose command line names a machine.
func processes(t *testing.T, id string) []string {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, path := range paths {
		if cmdline, err := os.ReadFile(path); err == nil && bytes.Contains(cmdline, []byte("banger-"+id)) {
			found = append(found, path)
		}
	}
	return found
}
