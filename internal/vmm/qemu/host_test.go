package qemu

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/vmm"
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
			t.Errorf("a CPU counts as one that can virtualize: %v, not %v: %.60q", got, want, cpuinfo)
		}
	}
}

func TestProbeKVMSaysWhy(t *testing.T) {
	ok, why := ProbeKVM()
	t.Log(ok, why)
	if why == "" {
		t.Error("the probe of KVM gives no reason")
	}
}

func TestInfo(t *testing.T) {
	missing := New(Config{Binary: filepath.Join(t.TempDir(), "qemu")})
	if _, err := missing.Info(t.Context()); fault.KindOf(err) != fault.Unsupported || fault.HintOf(err) == "" {
		t.Errorf("a missing QEMU is not refused as unsupported with a hint: %v, %q", err, fault.HintOf(err))
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
	d := New(Config{Accel: TCG, Binary: script("good", "echo \"$1\" >>"+runs+"\necho 'QEMU emulator version 9.9 (Test)'")})
	for range 2 {
		info, err := d.Info(t.Context())
		if err != nil || info.Version != "9.9 (Test)" || info.Accel != "tcg" || info.Why == "" || info.Grace == 0 {
			t.Errorf("a part of the description is missing or wrong: %+v, %v", info, err)
		}
	}
	if data, err := os.ReadFile(runs); err != nil || strings.Count(string(data), "--version\n") != 1 || strings.Count(string(data), "\n") != 2 {
		t.Errorf("QEMU is not run exactly once for its version and once for its networks, but with %q: %v", data, err)
	}
	for version, want := range map[string]int{"9.9": 0, "8.1.0": 0, "8.0.5 (Debian 1:8.0)": 1, "7.2.19": 1, "10.0.2": 0} {
		info, err := New(Config{Accel: TCG, Binary: script("v"+version[:3], "echo 'QEMU emulator version "+version+"'")}).Info(t.Context())
		r, ok := info.Recommended(vmm.MaxVCPUsWithInit)
		if err != nil || r.Value != want || ok && r.Reason == "" {
			t.Errorf("QEMU %s does not recommend at most %d CPUs with a reason (0: none): %+v, %v", version, want, r, err)
		}
	}
	if _, err := New(Config{Accel: TCG, Binary: script("bad", "echo hello")}).Info(t.Context()); fault.KindOf(err) != fault.Unsupported {
		t.Errorf("a program that is not QEMU is not refused as unsupported: %v", err)
	}
	if _, err := New(Config{Accel: TCG, Binary: script("broken", "echo no memory >&2; exit 1")}).Info(t.Context()); err == nil || !strings.Contains(err.Error(), "no memory") {
		t.Errorf("a program that fails is accepted as QEMU, or its reason is lost: %v", err)
	}
	if _, err := New(Config{Accel: "x", Binary: script("any", "")}).Info(t.Context()); fault.KindOf(err) != fault.Invalid {
		t.Errorf("the accelerator x is not refused as invalid: %v", err)
	}
	if ok, _ := ProbeKVM(); !ok {
		_, err := New(Config{Accel: KVM, Binary: script("kvm", "")}).Info(t.Context())
		if fault.KindOf(err) != fault.Unsupported || fault.HintOf(err) == "" {
			t.Errorf("KVM is not refused as unsupported with a hint, where there is none: %v", err)
		}
	}
}

func TestFeatures(t *testing.T) {
	for netdevs, want := range map[string][]vmm.Feature{
		"Available netdev backend types:\nsocket\ntap\nuser\n": {vmm.FeatureTellsReboot, vmm.FeatureTap, vmm.FeatureUserNet},
		"Available netdev backend types:\nvhost-user\ntap\n":   {vmm.FeatureTellsReboot, vmm.FeatureTap},
		"Available netdev backend types:\ndgram\nstream\n":     {vmm.FeatureTellsReboot, vmm.FeatureWire},
		"": {vmm.FeatureTellsReboot},
	} {
		if got := features(netdevs); !slices.Equal(got, want) {
			t.Errorf("a QEMU with the networks %q has the features %q, not %q", netdevs, got, want)
		}
	}
}
