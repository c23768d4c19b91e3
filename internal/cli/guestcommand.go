package cli

import (
	"context"
	"os"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/session"
	"banger/internal/cli/ui"
	"banger/internal/guest/proto"
)

// exitStatus returns a guest command's exit status as an error; 0 is no error.
func exitStatus(code int) error {
	if code == 0 {
		return nil
	}
	return command.Status(code)
}

// session returns a session on the app's streams for the request. It adds the terminal's size and
// type to a request with a terminal.
func newSession(a *command.App, req *proto.ExecRequest) *session.Session {
	s := &session.Session{In: a.In, Out: a.Out, Err: a.Err}
	s.Nudge = func() {
		if ui.Terminal(a.Err) != nil {
			a.Note("The command got the signal and still runs. Press Ctrl-C again to end it.")
		}
	}
	if !req.TTY {
		return s
	}
	if f := ui.Terminal(a.In); f != nil {
		s.Terminal = session.NewTerminal(f)
		if size, err := s.Terminal.Size(); err == nil {
			req.Size = &size
		}
	}
	if name := a.Getenv("TERM"); name != "" {
		req.Env = append([]string{"TERM=" + name}, req.Env...) // the user's own --env wins
	}
	return s
}

// connectUnless connects to the daemon unless a signal comes first: starting the daemon takes a
// moment.
func connectUnless(ctx context.Context, a *command.App, signals <-chan os.Signal) (*api.Client, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		client *api.Client
		err    error
	}
	connected := make(chan result, 1)
	go func() {
		client, err := a.Connect(ctx)
		connected <- result{client, err}
	}()
	for {
		select {
		case r := <-connected:
			return r.client, r.err
		case sig := <-signals:
			if session.Ends(sig) {
				cancel()
			}
		}
	}
}
