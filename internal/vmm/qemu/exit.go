package qemu

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/guest/report"
	"banger/internal/vmm"
	"banger/internal/vmm/qemu/defect"
	"banger/internal/vmm/qemu/qmp"
)

// witness remembers the signs of how a machine ended. The zero value with a log works. Its
// channels have room for one element each.
type witness struct {
	log        *slog.Logger
	consoleEnd chan struct{} // closed when the console's reader has ended
	resumed    chan struct{} // gets an element when the machine starts to run
	heard      chan struct{} // gets an element when the guest has written to its console
	lost       chan struct{} // gets an element when the booting kernel has lost its timer

	mu     sync.Mutex
	reason string         // of the SHUTDOWN event
	signal syscall.Signal // the last deadly one that this process sent
	tail   []byte         // the console's newest bytes
	ioFail bool           // a block error was reported before
	boot   defect.Boot
}

// panicTail is how many bytes at the end of the console are searched for a panic. They have room
// for its message, a call trace and the registers.
const panicTail = 16 << 10

func (w *witness) console(p []byte) {
	notify(w.heard)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tail = append(w.tail, p...)
	if over := len(w.tail) - 2*panicTail; over > 0 {
		w.tail = append(w.tail[:0], w.tail[len(w.tail)-panicTail:]...)
	}
	if w.boot.Lost(p) {
		notify(w.lost)
	}
}

// notify puts an element into a channel, if there is room.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (w *witness) signalled(sig syscall.Signal) {
	switch sig {
	case syscall.SIGTERM, syscall.SIGKILL, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT:
		w.mu.Lock()
		defer w.mu.Unlock()
		w.signal = sig
	}
}

// event records an event of QEMU (qapi/run-state.json and qapi/block-core.json of QEMU 7.2).
func (w *witness) event(e qmp.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch e.Name {
	case "SHUTDOWN":
		var data struct {
			Reason string `json:"reason"`
		}
		if err := json.Unmarshal(e.Data, &data); err != nil {
			w.log.Warn("an event of QEMU cannot be read", "event", e.Name, "error", err)
		}
		w.reason = data.Reason
	case "RESUME":
		notify(w.resumed)
	case "BLOCK_IO_ERROR":
		var data struct {
			Action string `json:"action"` // "report" or "stop"
		}
		_ = json.Unmarshal(e.Data, &data) // without an action, all of it is logged
		switch {
		case data.Action == "stop":
			w.log.Warn("the host's disk is full: the machine is halted")
		case !w.ioFail: // the guest can cause any number
			w.log.Warn("a drive failed; the guest sees I/O errors", "data", printable(string(e.Data)))
			w.ioFail = true
		}
	default:
		w.log.Debug("QEMU event", "event", printable(e.Name))
	}
}

// verdict returns how the machine ended. status is its exit status, if it is known. said returns
// the last words of the VMM.
func (w *witness) verdict(status syscall.WaitStatus, known bool, said func() string) vmm.Exit {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch w.reason {
	case "guest-shutdown":
		return vmm.Exit{Reason: vmm.ExitPowerOff}
	case "guest-reset":
		// A panic reboots at once (panic=-1), which looks like any reboot to QEMU. But it is on the
		// console: panic() first makes the console verbose, whatever the log level.
		if line, ok := panicLine(w.tail); ok {
			return vmm.Exit{Reason: vmm.ExitPanic, Detail: line}
		}
		return vmm.Exit{Reason: vmm.ExitReboot}
	case "guest-panic":
		line, _ := panicLine(w.tail)
		return vmm.Exit{Reason: vmm.ExitPanic, Detail: line}
	case "host-signal", "host-qmp-quit", "host-qmp-system-reset", "host-ui":
		return vmm.Exit{Reason: vmm.ExitKilled, Detail: w.killer()}
	case "":
		return w.unannounced(status, known, said)
	}
	return vmm.Exit{Reason: vmm.ExitCrashed, Detail: printable(w.reason) + ": " + said()}
}

// unannounced returns how a machine ended that sent no SHUTDOWN event.
func (w *witness) unannounced(status syscall.WaitStatus, known bool, said func() string) vmm.Exit {
	switch {
	case !known && w.signal != 0:
		return vmm.Exit{Reason: vmm.ExitKilled, Detail: w.killer()}
	case !known:
		return vmm.Exit{Reason: vmm.ExitUnknown, Detail: said()}
	case status.Signaled():
		switch sig := status.Signal(); sig {
		case syscall.SIGKILL, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT:
			return vmm.Exit{Reason: vmm.ExitKilled, Detail: signalName(sig)}
		case syscall.SIGXCPU:
			return vmm.Exit{Reason: vmm.ExitCrashed, Detail: "SIGXCPU: the VMM has used all CPU time that its limit allows (ulimit -t)"}
		default: // by its own fault, or by its sandbox (SIGSYS)
			return vmm.Exit{Reason: vmm.ExitCrashed, Detail: signalName(sig) + ": " + said()}
		}
	case status.ExitStatus() != 0:
		return vmm.Exit{Reason: vmm.ExitCrashed, Detail: fmt.Sprintf("status %d: %s", status.ExitStatus(), said())}
	}
	return vmm.Exit{Reason: vmm.ExitUnknown, Detail: said()}
}

// starved reports whether a VMM may have ended because the file system of its memory was full. The
// status of an adopted one is not known.
func starved(exit vmm.Exit, status syscall.WaitStatus, known bool) bool {
	if !known {
		return exit.Reason == vmm.ExitUnknown
	}
	return status.Signaled() && status.Signal() == syscall.SIGBUS
}

func (w *witness) killer() string {
	if w.signal == 0 {
		return "a signal or request that did not come from banger"
	}
	return signalName(w.signal)
}

// panicLine finds the message of the kernel's panic (panic() in kernel/panic.c).
func panicLine(console []byte) (string, bool) {
	const mark, longest = "Kernel panic - not syncing", 200
	i := bytes.LastIndex(console, []byte(mark))
	for i > 0 && bytes.HasSuffix(console[:i], []byte("---[ end ")) { // the trace repeats it
		i = bytes.LastIndex(console[:i], []byte(mark))
	}
	if i < 0 {
		return "", false
	}
	line, _, _ := bytes.Cut(console[i:], []byte("\n"))
	return report.Line(string(line), longest), true
}

func signalName(sig syscall.Signal) string {
	if name := unix.SignalName(sig); name != "" {
		return name
	}
	return fmt.Sprintf("signal %d", int(sig))
}

// printable makes text of a VMM safe for a terminal and a log.
func printable(s string) string { return report.Line(s, maxSaid) }
