package limit

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
)

// TestMain makes the test binary, called as a helper, raise its limits and print those of a child.
func TestMain(m *testing.M) {
	if os.Getenv("LIMIT_TEST_RAISE") == "" {
		os.Exit(m.Run())
	}
	low, err := Raise()
	if err != nil {
		panic(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(low); err != nil {
		panic(err)
	}
	sh := exec.Command("bash", "-c", "for f in f v d t n; do ulimit -S -$f; done")
	sh.Stdout, sh.Stderr = os.Stdout, os.Stderr
	if err := sh.Run(); err != nil {
		panic(err)
	}
}

// TestRaise starts this program with low limits and compares what its child inherits.
func TestRaise(t *testing.T) {
	for _, tt := range []struct{ set, want, low string }{
		{"ulimit -S -f 100 -v 8000000 -t 60 -n 40", "unlimited unlimited unlimited unlimited", ""},
		{"ulimit -f 204800", "204800 unlimited unlimited unlimited", "file-size"},
		{"ulimit -v 9000000; ulimit -d 8000000", "unlimited 9000000 8000000 unlimited", "address-space data"},
		{"ulimit -t 600", "unlimited unlimited unlimited 598", "cpu-time"},
	} {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("bash", "-c", tt.set+` && exec "$0"`, self)
		cmd.Env = append(os.Environ(), "LIMIT_TEST_RAISE=1")
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("%s: %v", tt.set, err)
			continue
		}
		first, rest, _ := strings.Cut(string(out), "\n")
		fields := strings.Fields(rest)
		if got := strings.Join(fields[:4], " "); got != tt.want {
			t.Errorf("%s: a child has %s, want %s", tt.set, got, tt.want)
		}
		if fields[4] == "40" {
			t.Errorf("%s: a child may open only %s files", tt.set, fields[4])
		}
		var low []struct{ Name Name }
		if err := json.Unmarshal([]byte(first), &low); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, l := range low {
			if l.Name != OpenFiles && l.Name != Processes { // the host of the test may have few
				names = append(names, string(l.Name))
			}
		}
		if got := strings.Join(names, " "); got != tt.low {
			t.Errorf("%s: the limits %q are reported as low, want %q", tt.set, got, tt.low)
		}
	}
}

func TestCheck(t *testing.T) {
	const gib = uint64(model.GiB)
	need := Need{File: 10 * model.GiB, Memory: 4 * model.GiB}
	for _, tt := range []struct {
		name Name
		soft uint64
		says string // "": no error
	}{
		{FileSize, Unlimited, ""},
		{FileSize, 10 * gib, ""},
		{FileSize, 10*gib - 1, "the size of a file is 10.0G (ulimit -f), and the VM needs 10G"},
		{FileSize, 0, "is 0B"},
		{Address, 6 * gib, ""},
		{Address, 5 * gib, "the address space is 5G (ulimit -v), and the VM needs 6G"},
		{Data, 5 * gib, "(ulimit -d), and the VM needs 6G"},
		{CPUTime, 1, ""},
		{OpenFiles, 1, ""},
	} {
		set := Set{tt.name: {Soft: tt.soft, Hard: tt.soft}}
		err := set.Check(need)
		if tt.says == "" {
			if err != nil {
				t.Errorf("%s of %d: %v", tt.name, tt.soft, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s of %d: got %v, want %q", tt.name, tt.soft, err, tt.says)
		}
		if fault.KindOf(err) != fault.Unavailable || !strings.Contains(fault.HintOf(err), "banger daemon restart") {
			t.Errorf("%s of %d: kind %s, hint %q", tt.name, tt.soft, fault.KindOf(err), fault.HintOf(err))
		}
	}
	if err := (Set{Address: {}, Data: {}}).Check(Need{File: 1}); err != nil {
		t.Errorf("a need of no memory is refused: %v", err)
	}
}

func TestCheckMemory(t *testing.T) {
	const info = "MemTotal:        4194304 kB\nMemFree:          100 kB\nSwapTotal:       1048576 kB\nHugePages_Total:       0\n"
	for memory, ok := range map[model.Bytes]bool{model.GiB: true, 5 * model.GiB: true, 5*model.GiB + model.MiB: false, model.TiB: false} {
		err := checkMemory(memory, info)
		if (err == nil) != ok {
			t.Errorf("%v of memory: %v", memory, err)
		}
		if !ok && (fault.KindOf(err) != fault.Unsupported || !strings.Contains(err.Error(), "4G with 1G of swap")) {
			t.Errorf("%v of memory: %v, kind %s; want the numbers", memory, err, fault.KindOf(err))
		}
	}
	if err := checkMemory(model.TiB, "nonsense"); err != nil {
		t.Errorf("without a known size: %v", err)
	}
}
