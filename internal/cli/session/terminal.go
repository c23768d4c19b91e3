package session

import (
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"banger/internal/guest/proto"
)

// Terminal is a terminal that one command uses alone. It is safe for concurrent use.
type Terminal struct {
	file  *os.File
	mu    sync.Mutex
	saved *term.State // nil unless the terminal is in raw mode
	done  bool        // Restore was called
}

// NewTerminal returns the terminal behind f.
func NewTerminal(f *os.File) *Terminal { return &Terminal{file: f} }

// Raw puts the terminal into raw mode, in which every key goes to the guest unchanged. The guest's
// terminal driver echoes keys and turns Ctrl-C into a signal.
func (t *Terminal) Raw() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.saved != nil || t.done {
		return nil
	}
	saved, err := term.MakeRaw(int(t.file.Fd()))
	if err != nil {
		return err
	}
	t.saved = saved
	return nil
}

// Restore puts the terminal into its original mode. Raw has no effect afterwards, so a command that
// starts late cannot change the shell's terminal.
func (t *Terminal) Restore() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done = true
	if t.saved != nil {
		term.Restore(int(t.file.Fd()), t.saved)
		t.saved = nil
	}
}

// Size returns the terminal's present size.
func (t *Terminal) Size() (proto.Size, error) {
	cols, rows, err := term.GetSize(int(t.file.Fd()))
	return proto.Size{Rows: uint16(rows), Cols: uint16(cols)}, err
}

// Signals returns the signals that a session handles. SIGPIPE is among them so that a closed
// standard output is an error of Write instead of ending the process before it can restore the
// terminal.
func Signals() []os.Signal {
	return []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGWINCH, syscall.SIGPIPE}
}

func signalName(sig os.Signal) string {
	if s, ok := sig.(syscall.Signal); ok {
		if name := unix.SignalName(s); name != "" {
			return name
		}
	}
	return "SIGTERM"
}

// The escape sequence leaves a terminal whose guest does not respond: Ctrl-] three times within one
// second, as with systemd-nspawn.
const (
	escapeKey    = 0x1d
	escapeCount  = 3
	escapeWithin = time.Second
)

// escape recognizes the escape sequence in what the user types.
type escape struct {
	presses [escapeCount]time.Time // of the last escape keys in a row
	n       int
}

// typed takes the next keys and reports whether they complete the escape sequence.
func (e *escape) typed(keys []byte, now time.Time) bool {
	for _, key := range keys {
		if key != escapeKey {
			e.n = 0
			continue
		}
		if e.n == escapeCount {
			copy(e.presses[:], e.presses[1:])
			e.n--
		}
		e.presses[e.n] = now
		e.n++
		if e.n == escapeCount && now.Sub(e.presses[0]) <= escapeWithin {
			return true
		}
	}
	return false
}

// Ends reports whether a signal asks the process to end. Of Signals, all do but SIGWINCH and
// SIGPIPE.
func Ends(sig os.Signal) bool { return sig != syscall.SIGWINCH && sig != syscall.SIGPIPE }
