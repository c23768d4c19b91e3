package qemu

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"banger/internal/fault"
	"banger/internal/vmm"
	"banger/internal/vmm/confine"
	"banger/internal/vmm/qemu/qmp"
)

func TestVerdict(t *testing.T) {
	const exited0, exited1 = syscall.WaitStatus(0), syscall.WaitStatus(1 << 8)
	const oops = "[1.2] Kernel panic - not syncing: VFS: \x1b[31munable\r\ntrace\n[1.3] ---[ end Kernel panic - not syncing: VFS ]---\n"
	for name, c := range map[string]struct {
		event   string
		console string
		sig     syscall.Signal
		status  syscall.WaitStatus
		foreign bool
		want    vmm.Exit
	}{
		"power off":             {event: "guest-shutdown", want: vmm.Exit{Reason: vmm.ExitPowerOff}},
		"reboot":                {event: "guest-reset", console: "all is well\n", want: vmm.Exit{Reason: vmm.ExitReboot}},
		"panic":                 {event: "guest-reset", console: oops, want: vmm.Exit{Reason: vmm.ExitPanic, Detail: "Kernel panic - not syncing: VFS: unable"}},
		"panic long ago":        {event: "guest-reset", console: oops + strings.Repeat("x", 3*panicTail), want: vmm.Exit{Reason: vmm.ExitReboot}},
		"panic device":          {event: "guest-panic", want: vmm.Exit{Reason: vmm.ExitPanic}},
		"SIGTERM by us":         {event: "host-signal", sig: syscall.SIGTERM, want: vmm.Exit{Reason: vmm.ExitKilled, Detail: "SIGTERM"}},
		"SIGTERM by others":     {event: "host-signal", want: vmm.Exit{Reason: vmm.ExitKilled, Detail: "a signal or request that did not come from banger"}},
		"quit":                  {event: "host-qmp-quit", want: vmm.Exit{Reason: vmm.ExitKilled, Detail: "a signal or request that did not come from banger"}},
		"host error":            {event: "host-error", want: vmm.Exit{Reason: vmm.ExitCrashed, Detail: "host-error: words"}},
		"SIGKILL":               {status: syscall.WaitStatus(syscall.SIGKILL), want: vmm.Exit{Reason: vmm.ExitKilled, Detail: "SIGKILL"}},
		"SIGSEGV":               {status: syscall.WaitStatus(syscall.SIGSEGV), want: vmm.Exit{Reason: vmm.ExitCrashed, Detail: "SIGSEGV: words"}},
		"sandbox":               {status: syscall.WaitStatus(syscall.SIGSYS), want: vmm.Exit{Reason: vmm.ExitCrashed, Detail: "SIGSYS: words"}},
		"status 1":              {status: exited1, want: vmm.Exit{Reason: vmm.ExitCrashed, Detail: "status 1: words"}},
		"nobody watched":        {status: exited0, want: vmm.Exit{Reason: vmm.ExitUnknown, Detail: "words"}},
		"adopted, nobody knows": {foreign: true, want: vmm.Exit{Reason: vmm.ExitUnknown, Detail: "words"}},
		"adopted, killed":       {foreign: true, sig: syscall.SIGKILL, want: vmm.Exit{Reason: vmm.ExitKilled, Detail: "SIGKILL"}},
		"a harmless signal":     {foreign: true, sig: syscall.SIGCONT, want: vmm.Exit{Reason: vmm.ExitUnknown, Detail: "words"}},
	} {
		w := witness{log: slog.New(slog.DiscardHandler)}
		w.console([]byte(c.console))
		if c.event != "" {
			w.event(qmp.Event{Name: "SHUTDOWN", Data: json.RawMessage(`{"guest": true, "reason": "` + c.event + `"}`)})
		}
		if c.sig != 0 {
			w.signalled(c.sig)
		}
		if got := w.verdict(c.status, !c.foreign, func() string { return "words" }); got != c.want {
			t.Errorf("%s: the machine's end is reported as %+v, not as %+v", name, got, c.want)
		}
	}
}

func TestStarved(t *testing.T) {
	for name, c := range map[string]struct {
		reason vmm.ExitReason
		status syscall.WaitStatus
		known  bool
		want   bool
	}{
		"SIGBUS":               {vmm.ExitCrashed, syscall.WaitStatus(syscall.SIGBUS), true, true},
		"SIGSEGV":              {vmm.ExitCrashed, syscall.WaitStatus(syscall.SIGSEGV), true, false},
		"power off":            {vmm.ExitPowerOff, 0, true, false},
		"adopted":              {vmm.ExitUnknown, 0, false, true},
		"adopted, power off":   {vmm.ExitPowerOff, 0, false, false},
		"adopted, then killed": {vmm.ExitKilled, 0, false, false},
	} {
		if got := starved(vmm.Exit{Reason: c.reason}, c.status, c.known); got != c.want {
			t.Errorf("%s: a lack of space may be the reason: %v, want %v", name, got, c.want)
		}
	}
}

func TestConsoleTailIsBounded(t *testing.T) {
	var w witness
	for range 1000 {
		w.console([]byte(strings.Repeat("x", 1000)))
		if len(w.tail) > 3*panicTail {
			t.Fatalf("the tail of the console is not bounded: %d bytes", len(w.tail))
		}
	}
}

func TestLastLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if got := lastLines(path, 0); got != "" {
		t.Errorf("a log that does not exist has the last lines %q", got)
	}
	for content, want := range map[string]string{
		"":                                "",
		"before":                          "",
		"beforeone\n":                     "one",
		"before1\n2\n3\n4\n5\n6\n7\x1b[m": "3; 4; 5; 6; 7",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := lastLines(path, int64(len("before"))); got != want {
			t.Errorf("the last lines of %q are %q, not %q", content, got, want)
		}
	}
}

func TestStartError(t *testing.T) {
	for said, want := range map[string]fault.Kind{
		"qemu-system-x86_64: cannot set up guest memory 'mem': Cannot allocate memory":              fault.Unavailable,
		`qemu-system-x86_64: Failed to get "write" lock`:                                            fault.Locked,
		`qemu-system-x86_64: Failed to get shared "write" lock`:                                     fault.Locked,
		"qemu-system-x86_64: -netdev user: network backend 'user' is not compiled into this binary": fault.Unsupported,
		"qemu-system-x86_64: something else":                                                        fault.Internal,
	} {
		err := startError("ended with status 1", said, nil)
		if fault.KindOf(err) != want || want != fault.Internal && fault.HintOf(err) == "" {
			t.Errorf("%q is not reported as %s with a hint: %v", said, want, err)
		}
	}
}

// TestDeniedHint blames the confinement only for what it denies.
func TestDeniedHint(t *testing.T) {
	dir := t.TempDir()
	allowed, other, closed := filepath.Join(dir, "allowed, with a space"), filepath.Join(dir, "other"), filepath.Join(dir, "closed")
	if err := errors.Join(os.WriteFile(allowed, nil, 0o600), os.WriteFile(other, nil, 0o600), os.WriteFile(closed, nil, 0o400)); err != nil {
		t.Fatal(err)
	}
	policy := &confine.Policy{Read: []string{"/usr"}, Write: []string{allowed, closed}}
	const confined = "confine to off"
	for _, c := range []struct {
		said   string
		policy *confine.Policy
		want   string
	}{
		{"qemu: Could not open '" + other + "': Permission denied", policy, confined},
		{"qemu: Could not open '" + allowed + "': Permission denied", policy, "AppArmor"},
		{"qemu: Could not open '" + closed + "': Permission denied", policy, "mode of " + closed},
		{"/usr/bin/qemu: error while loading shared libraries: libx.so: cannot open: Permission denied", policy, confined},
		{"qemu: error while loading shared libraries: libx.so: cannot open: Permission denied", nil, "AppArmor"},
		{"qemu: Could not open '" + other + "': Permission denied", nil, "AppArmor"},
	} {
		hint := fault.HintOf(startError("ended with status 1", c.said, c.policy))
		if !strings.Contains(hint, c.want) || strings.Contains(hint, confined) != (c.want == confined) {
			t.Errorf("%s (confined: %v): the hint is %q, want one with %q", c.said, c.policy != nil, hint, c.want)
		}
	}
}

func TestBoundLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for size, want := range map[int64]int64{0: 0, maxVMMLog: maxVMMLog, maxVMMLog + 1: 0} {
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size), boundLog(path)); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Size() != want {
			t.Errorf("a log of %d bytes has %d afterwards, not %d: %v", size, info.Size(), want, err)
		}
	}
	if err := boundLog(""); err != nil {
		t.Error(err)
	}
}

// FuzzState decodes what a damaged record may hold.
func FuzzState(f *testing.F) {
	data, err := intended(sample()).encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(data))
	f.Add([]byte(`{"version":1,"process":{"pid":-1}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := decodeState(data); err == nil && s.Version != stateVersion {
			t.Errorf("a state of another version is accepted: %q as %+v", data, s)
		}
	})
}
