package qemu

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"banger/internal/fault"
)

func TestVirtualizes(t *testing.T) {
	for cpuinfo, want := range map[string]bool{
		"processor\t: 0\nflags\t\t: fpu vmx sse\n":                     true,
		"processor\t: 0\nflags\t\t: fpu svm\nflags : none\n":           true,
		"processor\t: 0\nvmx flags\t: vnmi\nflags\t\t: fpu hypervisor": false,
		"flags : vmxx xsvm":               false,
		"model name : svm\nflags : fpu\n": false,
		"":                                false,
		strings.Repeat("x", 1<<20) + "\nflags:svm": false,
	} {
		if got := virtualizes(strings.NewReader(cpuinfo)); got != want {
			t.Errorf("%.60q: %v", cpuinfo, got)
		}
	}
}

func TestProbeKVMSaysWhy(t *testing.T) {
	ok, why := ProbeKVM()
	t.Log(ok, why)
	if why == "" {
		t.Error("it gives no reason")
	}
}

// TestMeasureTSC compares two measurements, and the kernel's own where its log can be read.
func TestMeasureTSC(t *testing.T) {
	one, err := measureTSC(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other, err := measureTSC(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	near(t, one, other)
	if out, err := exec.Command("dmesg").Output(); err == nil {
		if m := regexp.MustCompile(`tsc: Detected (\d+)\.(\d{3}) MHz processor`).FindSubmatch(out); m != nil {
			kernel, err := strconv.ParseUint(string(m[1])+string(m[2]), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			near(t, one, kernel)
		}
	}
}

// near wants two frequencies to differ by less than 500 in a million, from where on Linux calls a clock source unstable.
func near(t *testing.T, a, b uint64) {
	t.Helper()
	t.Log(a, b)
	if d := max(a, b) - min(a, b); d*2000 > a {
		t.Errorf("%d and %d kHz are not the same", a, b)
	}
}

func TestInfo(t *testing.T) {
	missing := New(Config{Binary: filepath.Join(t.TempDir(), "qemu")})
	if _, err := missing.Info(t.Context()); fault.KindOf(err) != fault.Unsupported || fault.HintOf(err) == "" {
		t.Errorf("without QEMU: %v, hint %q", err, fault.HintOf(err))
	}
	dir := t.TempDir()
	script := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	runs := filepath.Join(dir, "runs")
	d := New(Config{Accel: TCG, Binary: script("good", "echo x >>"+runs+"\necho 'QEMU emulator version 9.9 (Test)'")})
	for range 2 {
		info, err := d.Info(t.Context())
		if err != nil || info.Version != "9.9 (Test)" || info.Accel != "tcg" || info.Why == "" || info.Grace == 0 {
			t.Errorf("%+v, %v", info, err)
		}
	}
	if data, err := os.ReadFile(runs); err != nil || string(data) != "x\n" {
		t.Errorf("it was asked %q times (%v)", data, err)
	}
	for version, several := range map[string]bool{"9.9": true, "8.1.0": true, "8.0.5 (Debian 1:8.0)": false, "7.2.19": false, "10.0.2": true} {
		info, err := New(Config{Accel: TCG, Binary: script("v"+version[:3], "echo 'QEMU emulator version "+version+"'")}).Info(t.Context())
		if err != nil || (info.OneCPU == "") != several {
			t.Errorf("QEMU %s: %q, %v", version, info.OneCPU, err)
		}
	}
	if _, err := New(Config{Accel: TCG, Binary: script("bad", "echo hello")}).Info(t.Context()); fault.KindOf(err) != fault.Unsupported {
		t.Errorf("another program: %v", err)
	}
	if _, err := New(Config{Accel: TCG, Binary: script("broken", "exit 1")}).Info(t.Context()); err == nil {
		t.Error("a broken program passed")
	}
	if _, err := New(Config{Accel: "x", Binary: script("any", "")}).Info(t.Context()); fault.KindOf(err) != fault.Invalid {
		t.Errorf("accelerator x: %v", err)
	}
	if ok, _ := ProbeKVM(); !ok {
		_, err := New(Config{Accel: KVM, Binary: script("kvm", "")}).Info(t.Context())
		if fault.KindOf(err) != fault.Unsupported || fault.HintOf(err) == "" {
			t.Errorf("KVM where there is none: %v", err)
		}
	}
}
