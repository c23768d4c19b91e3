package server

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/guest/relay"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/pace"
)

// maxExecBytes bounds the output that all exec calls under way hold together. Output beyond it
// counts as missing, like output beyond the call's own bound.
const maxExecBytes = 64 << 20

// exec runs a command: as a stream if the client asks for an upgrade, otherwise as a plain call.
func (h guestHandlers) exec(w http.ResponseWriter, r *http.Request) error {
	if r.Header.Get("Upgrade") != "" {
		return h.execStream(w, r)
	}
	call, err := decodeUpTo[api.ExecCall](w, r, api.MaxExecBody)
	if err != nil {
		return err
	}
	req, stdin, err := checkExecCall(&call)
	if err != nil {
		return err
	}
	v, agent, unuse, err := h.use(r)
	if err != nil {
		return err
	}
	defer unuse()
	ctx, done, err := h.sessions.Begin(r.Context(), v.ID)
	if err != nil {
		return err
	}
	defer done()
	one := &execCall{
		request: req, stdin: stdin, timeout: call.Timeout,
		stdout: capture{room: int(call.MaxOutput), held: h.execBytes},
		stderr: capture{room: int(call.MaxOutput), held: h.execBytes},
	}
	defer one.stdout.release()
	defer one.stderr.release()
	result, err := one.run(ctx, agent)
	if err != nil {
		return h.whyLost(ctx, v, err)
	}
	return writeResult(w, result)
}

// checkExecCall checks a call, fills in its defaults, and returns the request to the agent and the
// input.
func checkExecCall(call *api.ExecCall) (proto.ExecRequest, []byte, error) {
	stdin := call.StdinBase64
	if call.Stdin != "" {
		stdin = []byte(call.Stdin)
	}
	if call.Timeout == 0 {
		call.Timeout = api.DefaultExecTime
	}
	if call.MaxOutput == 0 {
		call.MaxOutput = api.DefaultExecBytes
	}
	var err *fault.Error
	switch {
	case len(call.Argv) == 0 || call.Argv[0] == "":
		err = fault.New(fault.Invalid, "field \"argv\" is missing").
			WithHint("For a login shell, ask for an upgrade to %s.", proto.StreamProtocol)
	case call.Stdin != "" && call.StdinBase64 != nil:
		err = fault.New(fault.Invalid, "fields \"stdin\" and \"stdin_base64\" exclude each other")
	case len(stdin) > api.MaxExecStdin:
		err = fault.New(fault.Invalid, "standard input has %d bytes; %d is the most", len(stdin), api.MaxExecStdin).
			WithHint("Put the input into a file of the guest, or ask for an upgrade to %s.", proto.StreamProtocol)
	case call.Timeout < 0 || call.Timeout > api.MaxExecTime:
		err = fault.New(fault.Invalid, "field \"timeout\": %v is not between 0 and %v", call.Timeout, api.MaxExecTime)
	case call.MaxOutput < 0 || call.MaxOutput > api.MaxExecOutput:
		err = fault.New(fault.Invalid, "field \"max_output\": %d is not between 0 and %d", call.MaxOutput, api.MaxExecOutput)
	default:
		return proto.ExecRequest{
			Argv: call.Argv, Env: call.Env, User: call.User, Workdir: call.Workdir, Stdin: len(stdin) > 0,
		}, stdin, nil
	}
	return proto.ExecRequest{}, nil, err
}

// execCall is one plain call.
type execCall struct {
	request        proto.ExecRequest
	stdin          []byte
	timeout        time.Duration
	stdout, stderr capture
}

// run runs the command to its end, or until its time is over.
func (one *execCall) run(ctx context.Context, agent machine.Agent) (*api.ExecResult, error) {
	command, err := openExec(ctx, agent, one.request)
	if err != nil {
		return nil, err
	}
	defer command.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, one.timeout, errTimedOut)
	defer cancel()
	ended := make(chan struct{})
	defer close(ended)
	stop := context.AfterFunc(ctx, func() { hangUp(command, ended) })
	defer stop()
	stdin := command.Stdin()
	if len(one.stdin) > 0 {
		go func() {
			_, _ = stdin.Write(one.stdin) // Collect notices the guest's end
			_ = stdin.Close()
		}()
	}
	exit, err := command.Collect(&one.stdout, &one.stderr, stdin)
	timedOut := errors.Is(context.Cause(ctx), errTimedOut)
	switch {
	case timedOut:
		exit = proto.Exit{Code: api.ExitTimedOut}
	case err != nil:
		return nil, err
	}
	return &api.ExecResult{
		Code: exit.Code, Signal: exit.Signal, TimedOut: timedOut,
		Stdout: one.stdout.result(), Stderr: one.stderr.result(),
	}, nil
}

// openExec passes a command to the guest's agent.
func openExec(ctx context.Context, agent machine.Agent, req proto.ExecRequest) (*relay.Command, error) {
	if err := checkSize(req); err != nil {
		return nil, err
	}
	setup, cancel := pace.Context(ctx, guestTimeout, "answer of the guest")
	defer cancel()
	conn, err := agent.Upgrade(setup, "/v1/exec")
	if err != nil {
		return nil, err
	}
	command, err := relay.Start(conn, req)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return command, nil
}

// hangUp asks the guest to end a command and cuts the stream off after a grace time. The request
// has a goroutine of its own, because a guest that reads nothing blocks it until the cut.
func hangUp(command *relay.Command, ended <-chan struct{}) {
	go func() { _ = command.HangUp() }()
	grace := time.NewTimer(hangupGrace)
	defer grace.Stop()
	select {
	case <-ended:
	case <-grace.C:
	}
	command.Close()
}

// capture keeps the beginning of an output and counts the rest.
type capture struct {
	data    []byte
	room    int // bytes that may still be kept
	missing int64
	held    *atomic.Int64 // bytes that all calls hold
	taken   int64         // this one's share of held
}

func (c *capture) Write(p []byte) (int, error) {
	n := min(len(p), c.room)
	if c.held.Add(int64(n)) > maxExecBytes {
		c.held.Add(int64(-n))
		n, c.room = 0, 0 // the kept part has no gap
	}
	c.taken += int64(n)
	c.room -= n
	c.data = append(c.data, p[:n]...)
	c.missing += int64(len(p) - n)
	return len(p), nil
}

func (c *capture) result() api.ExecOutput { return api.NewExecOutput(c.data, c.missing) }

// release returns the capture's share.
func (c *capture) release() {
	c.held.Add(-c.taken)
	c.taken = 0
}

// argv returns what a container runtime would run: the image's entrypoint with the given arguments,
// or with the image's own ones if none are given (OCI image-spec, config.md, "Entrypoint" and
// "Cmd").
func argv(cfg model.ImageConfig, given []string) []string {
	if len(given) == 0 {
		given = cfg.Cmd
	}
	return append(append([]string(nil), cfg.Entrypoint...), given...)
}
