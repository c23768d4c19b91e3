// Package session joins this process's standard streams, terminal and signals to a command in a
// guest.
//
// One goroutine writes the guest's output to standard output and error. Another reads standard
// input. Run itself waits for the end of the command, for signals and for timers. A read from
// standard input cannot be interrupted, so its goroutine may outlive Run: the process is expected
// to end soon.
package session

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"banger/internal/api"
	"banger/internal/guest/proto"
	"banger/internal/step"
)

// Stream carries frames to and from a command. *api.Stream implements it.
type Stream interface {
	ReadFrame() (proto.FrameType, []byte, error)
	WriteFrame(proto.FrameType, []byte) error
	WriteJSON(proto.FrameType, any) error
	Stdin() *proto.Stdin
	Close() error
}

// Session is one command. Its exported fields are set before Run and do not change afterwards.
type Session struct {
	Stream   Stream
	In       io.Reader
	Out, Err io.Writer
	Terminal *Terminal // for a command with a pty if our input is a terminal; otherwise nil

	// Boot is set for a stream that makes its VM first. Until api.EventExec comes, input waits, and
	// a signal calls the start off.
	Boot bool
	// Timeout ends the command; Run then returns ExitTimeout. 0 means no timeout. The timeout of
	// `banger run` is not set here: the daemon enforces it.
	Timeout time.Duration
	// Grace is the time that the other side has to clean up after a hangup; 0 means defaultGrace.
	Grace time.Duration

	Event   func(step.Event) // called for each FrameEvent; may be nil
	Started func()           // called once before the command's streams are joined; may be nil
	Ended   func()           // called once when the command has ended; may be nil
	Nudge   func()           // called if a signal does not end the command soon; may be nil
	// Stuck is called after a signal was passed on, and reports whether the guest cannot get it
	// now. Then the signal ends the session. It may be nil.
	Stuck func() bool

	started  sync.Once
	begun    atomic.Bool   // the command runs
	stuck    chan struct{} // has an element if the guest cannot get a signal
	live     atomic.Bool   // the command's streams are joined
	hangup   sync.Once
	escaped  chan struct{} // closed when the user typed the escape sequence
	finished chan outcome
	stdin    *proto.Stdin
}

// Exit codes that do not come from the guest.
const (
	ExitTimeout     = api.ExitTimedOut
	ExitInterrupted = 130 // 128 + SIGINT
	exitBrokenPipe  = 141 // 128 + SIGPIPE
)

const (
	defaultGrace = 20 * time.Second // stopping a guest in emulation takes seconds
	nudgeAfter   = 2 * time.Second
)

type outcome struct {
	code int
	err  error
}

// Run runs the session to its end and returns the exit status: the command's, or one of the codes
// above. An error means that the command did not run, or that its end is not known. The caller has
// registered the channel signals for Signals.
func (s *Session) Run(ctx context.Context, signals <-chan os.Signal) (int, error) {
	s.escaped = make(chan struct{})
	s.finished = make(chan outcome, 1)
	s.stuck = make(chan struct{}, 1)
	s.stdin = s.Stream.Stdin()
	defer s.Stream.Close()
	if s.Terminal != nil {
		defer s.Terminal.Restore()
	}
	if !s.Boot && s.Terminal == nil { // Ctrl-C of a terminal stays a signal until the command runs
		if err := s.join(); err != nil {
			return 0, err
		}
	}
	go s.receive()
	return s.wait(ctx, signals)
}

// join puts the terminal into raw mode and starts to send standard input. Only its first call has
// an effect.
func (s *Session) join() (err error) {
	s.started.Do(func() {
		if s.Started != nil {
			s.Started()
		}
		if s.Terminal != nil {
			if err = s.Terminal.Raw(); err != nil {
				return
			}
			err = s.resize()
		}
		s.live.Store(true)
		go s.sendInput()
	})
	return err
}

func (s *Session) resize() error {
	size, err := s.Terminal.Size()
	if err != nil {
		return nil // some consoles have no size
	}
	return s.Stream.WriteJSON(proto.FrameResize, size)
}

// receive passes on what the stream says until it ends: after the command's end the daemon may
// still have to clean up.
func (s *Session) receive() {
	defer s.restoreOnPanic()
	receiver := api.Receiver{
		Stdout: s.Out, Stderr: s.Err, Stdin: s.stdin, Event: s.Event, Ended: s.ended,
		Started: func() error { s.begun.Store(true); return s.join() },
	}
	exit, err := receiver.Receive(s.Stream)
	if s.Boot && errors.Is(err, api.ErrOutput) {
		s.awaitEnd()
	}
	s.finished <- outcome{exit.Code, err}
}

// awaitEnd hangs up and waits until the daemon has cleaned up: it may have to delete the VM.
func (s *Session) awaitEnd() {
	s.hangUp()
	s.ended()
	late := time.AfterFunc(s.grace(), func() { s.Stream.Close() })
	defer late.Stop()
	rest := api.Receiver{Event: s.Event}
	_, _ = rest.Receive(s.Stream) // the lost output is the session's error
}

// ended restores the terminal at the command's end: cleaning up can take a moment, and Ctrl-C
// should work meanwhile.
func (s *Session) ended() {
	if s.Terminal != nil {
		s.Terminal.Restore()
	}
	if s.Ended != nil {
		s.Ended()
	}
}

// sendInput sends standard input until it ends. It drops errors of the stream, because receive
// reports them.
func (s *Session) sendInput() {
	defer s.restoreOnPanic()
	defer s.stdin.Close()
	if s.In == nil {
		return
	}
	var keys escape
	buf := make([]byte, 32<<10)
	for {
		n, err := s.In.Read(buf)
		if s.Terminal != nil && keys.typed(buf[:n], time.Now()) {
			close(s.escaped)
			return
		}
		if n > 0 {
			if _, err := s.stdin.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (s *Session) restoreOnPanic() {
	if p := recover(); p != nil {
		if s.Terminal != nil {
			s.Terminal.Restore()
		}
		panic(p)
	}
}

// ending holds the state of a session that is about to end.
type ending struct {
	asked int              // number of signals that came
	code  int              // exit status after we hung up; -1 before
	grace <-chan time.Time // fires when the other side has had enough time
	nudge <-chan time.Time // fires when the user may wonder why nothing happens
}

// wait is the session's main loop.
func (s *Session) wait(ctx context.Context, signals <-chan os.Signal) (int, error) {
	end := &ending{code: -1}
	var timeout <-chan time.Time
	if s.Timeout > 0 {
		timeout = time.After(s.Timeout)
	}
	escaped, canceled := s.escaped, ctx.Done()
	for {
		select {
		case result := <-s.finished:
			return s.verdict(result, end.code)
		case sig := <-signals:
			if s.signal(sig, end) {
				return end.code, nil
			}
		case <-s.stuck:
			s.end(end, ExitInterrupted)
			if !s.Boot { // nothing has to be cleaned up
				return end.code, nil
			}
		case <-end.nudge:
			if s.Nudge != nil && end.code < 0 {
				s.Nudge()
			}
		case <-escaped:
			escaped = nil
			s.end(end, ExitInterrupted)
		case <-timeout:
			s.end(end, ExitTimeout)
		case <-canceled:
			canceled = nil
			s.end(end, ExitInterrupted)
		case <-end.grace:
			return end.code, nil
		}
	}
}

// signal handles one of our process's signals and reports whether to leave at once. The first
// signal goes to the command, or ends the session if the command does not run yet. The second one
// ends the session. The third one leaves the cleaning up to the daemon.
func (s *Session) signal(sig os.Signal, end *ending) (leave bool) {
	switch sig {
	case syscall.SIGPIPE:
		return false // the failed write reports it
	case syscall.SIGWINCH:
		if s.Terminal != nil && s.live.Load() {
			s.resize()
		}
		return false
	}
	end.asked++
	switch {
	case end.code >= 0 && end.asked > 2:
		return true
	case !s.Boot && !s.begun.Load():
		s.end(end, ExitInterrupted)
		return true
	case end.asked > 1 || !s.live.Load():
		s.end(end, ExitInterrupted)
	default:
		s.Stream.WriteFrame(proto.FrameSignal, []byte(signalName(sig)))
		end.nudge = time.After(nudgeAfter)
		if s.Stuck != nil {
			go func() {
				if s.Stuck() {
					s.stuck <- struct{}{}
				}
			}()
		}
		if sig == syscall.SIGHUP && s.Terminal != nil {
			s.end(end, 128+int(syscall.SIGHUP)) // the terminal is gone: no second signal comes
		}
	}
	return false
}

// end hangs up. It sets the exit status unless that is set already.
func (s *Session) end(end *ending, code int) {
	s.hangUp()
	if end.code < 0 {
		end.code, end.grace = code, time.After(s.grace())
	}
}

// verdict returns the exit status of a session that ended by itself, or after a hangup (code >= 0).
func (s *Session) verdict(result outcome, code int) (int, error) {
	switch {
	case errors.Is(result.err, api.ErrOutput):
		s.hangUp()
		if errors.Is(result.err, syscall.EPIPE) {
			return exitBrokenPipe, nil
		}
		return 0, result.err
	case code >= 0:
		return code, nil
	}
	return result.code, result.err
}

func (s *Session) hangUp() {
	s.hangup.Do(func() { s.Stream.WriteFrame(proto.FrameHangup, nil) })
}

func (s *Session) grace() time.Duration {
	if s.Grace > 0 {
		return s.Grace
	}
	return defaultGrace
}
