package defect

import (
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"testing"
)

func TestMixesUpCPUs(t *testing.T) {
	for version, want := range map[string]bool{
		"7.2.22 (Debian 1:7.2+dfsg-7)": true, "8.0.5": true, "8.1.0": false, "8.2": false, "9.9": false, "10.0.2": false,
		"": false, "unknown": false, "8": false,
	} {
		if got := MixesUpCPUs(version); got != want {
			t.Errorf("QEMU %q counts as affected: %v, not %v", version, got, want)
		}
	}
}

func TestWritesBase(t *testing.T) {
	for version, want := range map[string]bool{"7.2.22 (Debian 1:7.2+dfsg-7)": true, "8.1.5": true, "8.2.0": false, "9.0": false, "10.0.2": false} {
		if got := WritesBase(version); got != want {
			t.Errorf("QEMU %q counts as one that opens a shared base for writing: %v, not %v", version, got, want)
		}
	}
}

func TestPortAbandoned(t *testing.T) {
	for filename, want := range map[string]bool{
		"disconnected:unix:/run/agent.sock,server=on":  true,
		"unix:/run/agent.sock,server=on":               false,
		"unix:/run/disconnected:/agent.sock,server=on": false,
		"": false,
	} {
		if got := PortAbandoned(filename); got != want {
			t.Errorf("the port %q counts as abandoned: %v, not %v", filename, got, want)
		}
	}
}

// TestMeasureTSC compares two measurements, and the kernel's own if its log can be read.
func TestMeasureTSC(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("only amd64 has a TSC")
	}
	one, err := MeasureTSC(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other, err := MeasureTSC(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	near(t, one, other)
	out, err := exec.Command("dmesg").Output()
	if err != nil {
		return
	}
	if m := regexp.MustCompile(`tsc: Detected (\d+)\.(\d{3}) MHz processor`).FindSubmatch(out); m != nil {
		kernel, err := strconv.ParseUint(string(m[1])+string(m[2]), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		near(t, one, kernel)
	}
}

// near checks that two frequencies differ by less than 500 in a million. Beyond that Linux calls a
// clock source unstable.
func near(t *testing.T, a, b uint64) {
	t.Helper()
	t.Log(a, b)
	if d := max(a, b) - min(a, b); d*2000 > a {
		t.Errorf("two measurements of the TSC differ too much: %d and %d kHz", a, b)
	}
}
