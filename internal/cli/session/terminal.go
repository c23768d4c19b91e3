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

// Terminal is the terminal that a session's command gets to itself. It is safe for concurrent use.
type Terminal struct {
	file  *os.File
	mu    sync.Mutex
	saved *term.State // nil while the terminal is as it was
	done  bool        // restored for good
}

// NewTerminal returns the terminal behind f.
func NewTerminal(f *os.File) *Terminal { return &Terminal{file: f} }

// Raw passes every key on as it is: the guest's terminal driver echoes, and makes signals of Ctrl-C and the like.
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

// Restore puts the terminal back. Raw does nothing after it, so a late start of the command cannot spoil the terminal that
// the shell has back.
func (t *Terminal) Restore() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done = true
	if t.saved != nil {
		term.Restore(int(t.file.Fd()), t.saved)
		t.saved = nil
	}
}

// Size is the terminal's size now.
func (t *Terminal) Size() (proto.Size, error) {
	cols, rows, err := term.GetSize(int(t.file.Fd()))
	return proto.Size{Rows: uint16(rows), Cols: uint16(cols)}, err
}

// Signals are those that a session wants from its process. SIGPIPE is among them so that a closed standard output is an error of Write, which
// leaves time to restore the terminal, and not the process's end.
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

// The way out of a terminal whose guest has ceased to answer: Ctrl-] three times within a second, as with systemd-nspawn.
const (
	escapeKey    = 0x1d
	escapeCount  = 3
	escapeWithin = time.Second
)

// escape recognizes the way out among what is typed.
type escape struct {
	presses [escapeCount]time.Time // of the present row of escape keys
	n       int
}

// typed tells whether the keys complete the way out.
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

// Ends tells whether a signal asks for the end, as all of Signals do but those that tell of the window and of pipes.
func Ends(sig os.Signal) bool { return sig != syscall.SIGWINCH && sig != syscall.SIGPIPE }
