package cli

import (
	"context"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/item"
	"banger/internal/cli/session"
	"banger/internal/cli/ui"
	"banger/internal/guest/proto"
	"banger/internal/model"
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

// stuck returns a function that reports whether a VM's guest cannot get a signal now, because its
// machine is halted.
func stuck(client *api.Client, name func() string) func() bool {
	return func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), item.ExplainTimeout)
		defer cancel()
		vm, err := client.VMs().Get(ctx, name())
		return err == nil && (vm.Held != nil || vm.State == model.Paused)
	}
}
