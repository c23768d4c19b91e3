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

// daemonEnv makes the test's program play a daemon: it starts the machine that the variable holds, says what it intends and what it has
// done, and waits to be killed.
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

// nobody is who uses a deadline in a program that is no test.
type nobody struct{ testing.TB }

func (nobody) Cleanup(func()) {}

// TestDaemonDies kills a daemon at various moments of a start. Whatever the moment, the state it intended tells another one whether there is
// a machine, and leads to it.
func TestDaemonDies(t *testing.T) {
	found := 0
	for i := range 8 {
		m := machine(t, tiny{then: off})
		intended, started := play(t, m, time.Duration(i)*time.Millisecond, i == 0)
		for _, state := range []vmm.State{intended, started} {
			if state == nil {
				continue
			}
			in, err := driver(t).Adopt(deadline(t), state)
			if fault.KindOf(err) == fault.NotFound {
				if left := processes(t, m.ID); len(left) != 0 {
					t.Errorf("moment %d: processes %v are left, but not found", i, left)
				}
				continue
			} else if err != nil {
				t.Fatal(err)
			}
			found++
			if bytes.Equal(state, started) || started == nil {
				if exit := endBy(t, in); exit.Reason != vmm.ExitPowerOff {
					t.Errorf("moment %d: %+v", i, exit)
				}
			}
			if err := in.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if found < 2 {
		t.Errorf("found %d machines: not even the one that had come up", found)
	}
}

// play has a daemon start a machine and kills it: some time after it said what it intends, or when it has done it.
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

// processes lists those whose command line names a machine.
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
