package cli

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// person is a user at a terminal on which banger runs.
type person struct {
	t    *testing.T
	cmd  *exec.Cmd
	tty  *os.File // the person's side
	side *os.File // banger's side, kept open so that its settings can be looked at after the end
	was  unix.Termios

	mu   sync.Mutex
	seen bytes.Buffer
	more chan struct{} // something new was seen
}

// sitDown runs banger on a terminal of 24 rows and 80 columns, with a fake daemon of its own.
func sitDown(t *testing.T, args ...string) (*person, *fakeDaemon) {
	t.Helper()
	return sitDownAt(t, append([]string{"banger"}, args...)...)
}

// sitDownAt is sitDown with another program on the terminal.
func sitDownAt(t *testing.T, argv ...string) (*person, *fakeDaemon) {
	t.Helper()
	home, daemon := startFake(t)
	tty, side, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	p := &person{t: t, tty: tty, side: side, more: make(chan struct{}, 1)}
	t.Cleanup(func() { tty.Close(); side.Close() })
	p.resize(24, 80)
	p.was = p.settings()
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Env = append(os.Environ(), "BANGER_HOME="+home, "TERM=xterm", "NO_COLOR=1", noRaceSleep)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = side, side, side
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.cmd.Process.Kill() })
	go p.watch()
	return p, daemon
}

func (p *person) watch() {
	buf := make([]byte, 4096)
	for {
		n, err := p.tty.Read(buf)
		p.mu.Lock()
		p.seen.Write(buf[:n])
		p.mu.Unlock()
		select {
		case p.more <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

func (p *person) screen() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.String()
}

// expect waits for a text that was not expected yet.
func (p *person) expect(want string) {
	p.t.Helper()
	late := time.After(20 * time.Second)
	for {
		p.mu.Lock()
		_, rest, found := strings.Cut(p.seen.String(), want)
		if found {
			p.seen.Reset()
			p.seen.WriteString(rest)
		}
		p.mu.Unlock()
		if found {
			return
		}
		select {
		case <-p.more:
		case <-late:
			p.t.Fatalf("%q did not come; the terminal shows\n%s", want, p.screen())
		}
	}
}

func (p *person) types(keys string) {
	p.t.Helper()
	if _, err := p.tty.WriteString(keys); err != nil {
		p.t.Fatal(err)
	}
}

func (p *person) resize(rows, cols uint16) {
	if err := pty.Setsize(p.tty, &pty.Winsize{Rows: rows, Cols: cols}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *person) settings() unix.Termios {
	termios, err := unix.IoctlGetTermios(int(p.side.Fd()), unix.TCGETS)
	if err != nil {
		p.t.Fatal(err)
	}
	return *termios
}

// leaves waits until banger ends, and checks its exit status and that the terminal is restored.
func (p *person) leaves(want int) {
	p.t.Helper()
	done := make(chan error, 1)
	go func() { done <- p.cmd.Wait() }()
	var err error
	select {
	case err = <-done:
	case <-time.After(20 * time.Second):
		p.t.Fatalf("banger did not end; the terminal shows\n%s", p.screen())
	}
	got := 0
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		got = failed.ExitCode()
		if got < 0 {
			got = 128 + int(failed.Sys().(syscall.WaitStatus).Signal())
		}
	}
	if got != want {
		p.t.Errorf("exit status %d, want %d; the terminal shows\n%s", got, want, p.screen())
	}
	if now := p.settings(); now != p.was {
		p.t.Errorf("the terminal is not restored: %+v, was %+v", now, p.was)
	}
}

func (p *person) isRaw() bool { return p.settings().Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) == 0 }

func TestShell(t *testing.T) {
	p, d := sitDown(t, "run", "--rm")
	p.expect("$ ")
	if !p.isRaw() {
		t.Error("the terminal is not in raw mode")
	}
	p.types("stty size; echo $TERM\n")
	p.expect("24 80\r\nxterm")
	p.resize(40, 100)
	p.types("while [ \"$(stty size)\" != '40 100' ]; do :; done; echo resized-$((1+1))\n")
	p.expect("resized-2")
	p.types("(echo asleep-$((1+1)); exec sleep 100)\n")
	p.expect("asleep-2")
	p.types("\x03") // the guest's
	p.expect("$ ")
	p.types("exit 5\n")
	p.leaves(5)
	if gone := d.gone(); len(gone) != 1 {
		t.Errorf("deleted VMs: %v, want one", gone)
	}
}

func TestShellThatStays(t *testing.T) {
	p, _ := sitDown(t, "run", "--name", "stays")
	p.expect("$ ")
	p.types("exit\n")
	p.expect("stays is still running. Use it: banger exec stays -- COMMAND. Remove it: banger rm -f stays")
	p.leaves(0)
}

func TestEscapeSequence(t *testing.T) {
	p, _ := sitDown(t, "exec", "-t", "web", "--", "sh", "-c", "stty raw -echo; echo deaf; exec sleep 100")
	p.expect("deaf")
	p.types("\x1d\x1d\x1d")
	p.leaves(130)
}

func TestCtrlC(t *testing.T) {
	p, d := sitDown(t, "run", "--rm", "--", "sh", "-c", "trap 'echo caught' INT; echo ready; while :; do sleep 0.1; done")
	p.expect("ready")
	p.types("\x03")
	p.expect("caught")
	p.expect("Press Ctrl-C again to end it.")
	p.types("\x03")
	p.leaves(130)
	if gone := d.gone(); len(gone) != 1 {
		t.Errorf("deleted VMs: %v, want one", gone)
	}
}

func TestCtrlCEndsTheCommand(t *testing.T) {
	p, _ := sitDown(t, "exec", "web", "--", "sh", "-c", "echo ready; exec sleep 100")
	p.expect("ready")
	p.types("\x03")
	p.leaves(130) // 128 + SIGINT, from the guest
}

func TestCtrlCDuringTheBoot(t *testing.T) {
	p, _ := sitDown(t, "run", "--rm", "--image", "slow", "--", "true")
	p.expect("image: slow") // the live view
	p.types("\x03")
	p.expect("\x1b[J") // the view is erased
	p.leaves(130)
}

func TestTypedAhead(t *testing.T) {
	p, _ := sitDown(t, "exec", "-t", "web", "--", "sh", "-c", "read x; echo got-$x")
	p.types("early\n")
	p.expect("got-early")
	p.leaves(0)
}

func TestSignals(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP} {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			p, _ := sitDown(t, "exec", "web", "--", "sh", "-c", "echo ready; exec sleep 100")
			p.expect("ready")
			p.cmd.Process.Signal(sig)
			p.leaves(128 + int(sig))
		})
	}
}

func TestInTheBackground(t *testing.T) {
	p, _ := sitDownAt(t, "sh", "-mc", "banger exec web -- sh -c 'cat; echo read-$((1+1))' & wait")
	p.expect("read-2")
	p.leaves(0)
}

func TestPruneAsks(t *testing.T) {
	p, _ := sitDown(t, "vm", "prune")
	p.expect("[y/N] ")
	p.types("n\n")
	p.expect("nothing was deleted")
	p.leaves(130)
	p, _ = sitDown(t, "vm", "prune")
	p.expect("[y/N] ")
	p.types("y\n")
	p.expect("1 deleted, 3M freed")
	p.leaves(0)
}

func TestTableOnATerminal(t *testing.T) {
	p, _ := sitDown(t, "ps")
	p.expect("NAME")
	p.leaves(0)
	if strings.Contains(p.screen(), "\x1b[2J") {
		t.Error("an image's name reached the terminal as it is")
	}
}

// TestForkTold checks that a fork on a terminal reports the length of the pause.
func TestForkTold(t *testing.T) {
	p, _ := sitDown(t, "fork", "--name", "trial", "web")
	p.expect("trial\r\n")
	p.expect("paused web for 9ms\r\n")
	p.leaves(0)
	p, _ = sitDown(t, "snapshot", "restore", "--name", "still", "--disks-only", "night")
	p.expect("still\r\n")
	p.expect("Not started yet. Start: banger vm start still\r\n")
	p.leaves(0)
}

// TestNoBytesOnTerminal checks that exports are not written to or read from a terminal.
func TestNoBytesOnTerminal(t *testing.T) {
	p, _ := sitDown(t, "snapshot", "export", "night")
	p.expect("refusing to write a snapshot to a terminal")
	p.expect("banger snapshot export -o night.banger night")
	p.leaves(64)
	p, _ = sitDown(t, "snapshot", "import", "-")
	p.expect("refusing to read a snapshot from a terminal")
	p.leaves(64)
}
