package server

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/requestid"
)

// startTimeout is the time for a client to send the first frame after an upgrade.
const startTimeout = 10 * time.Second

func (s *Server) streamHandlers() map[string]handler {
	return map[string]handler{
		"exec": s.exec,
		"ssh": func(w http.ResponseWriter, r *http.Request) error {
			return s.dial(w, r, "/v1/ssh")
		},
		"dial": func(w http.ResponseWriter, r *http.Request) error {
			q := queryOf(r, "port")
			port := q.number("port", 1, 65535)
			if q.err == nil && port == 0 {
				q.err = fault.New(fault.Invalid, "query parameter port is missing")
			}
			if q.err != nil {
				return q.err
			}
			return s.dial(w, r, "/v1/dial?port="+strconv.Itoa(port))
		},
		"run": s.run,
	}
}

// running returns a running VM and its agent.
func (s *Server) running(r *http.Request) (model.VM, machine.Agent, error) {
	v, err := s.Manager.Get(r.PathValue("ref"))
	if err != nil {
		return v, nil, err
	}
	agent, err := s.Manager.Agent(v.ID)
	return v, agent, err
}

// use is running for a request that counts as use of the VM until done is called. It wakes a VM
// that was suspended while idle.
func (s *Server) use(r *http.Request) (v model.VM, agent machine.Agent, done func(), err error) {
	return s.Manager.Use(r.Context(), r.PathValue("ref"))
}

// dial joins the client and a stream of the guest. The connection is upgraded after the guest has
// agreed, so that a refusal is a problem.
func (s *Server) dial(w http.ResponseWriter, r *http.Request, route string) error {
	if err := checkUpgrade(r); err != nil {
		return err
	}
	v, agent, unuse, err := s.use(r)
	if err != nil {
		return err
	}
	defer unuse()
	ctx, done, err := s.beginSession(r, v.ID)
	if err != nil {
		return err
	}
	defer done()
	setup, cancel := context.WithTimeout(r.Context(), guestTimeout)
	defer cancel()
	guest, err := agent.Upgrade(setup, route)
	if err != nil {
		return err
	}
	defer guest.Close()
	c, err := upgrade(w)
	if err != nil {
		return err
	}
	splice(ctx, c, guest, false)
	return nil
}

// execStream reads the command, passes it to the guest's agent, and joins the two streams.
func (s *Server) execStream(w http.ResponseWriter, r *http.Request) error {
	if err := checkUpgrade(r); err != nil {
		return err
	}
	v, agent, unuse, err := s.use(r)
	if err != nil {
		return err
	}
	defer unuse()
	ctx, done, err := s.beginSession(r, v.ID)
	if err != nil {
		return err
	}
	defer done()
	c, err := upgrade(w)
	if err != nil {
		return err
	}
	defer c.Close()
	var req proto.ExecRequest
	start, err := readStart(c, proto.NewReader(c), &req)
	if err == nil {
		err = joinExec(ctx, agent, c, start)
	}
	if err != nil {
		c.refuse(s.streamProblem(ctx, err, v.ID))
	}
	return nil
}

// beginSession enters a session that outlives the request and carries its id.
func (s *Server) beginSession(r *http.Request, vm string) (ctx context.Context, done func(), err error) {
	return s.Sessions.begin(requestid.With(s.work, requestid.From(r.Context())), vm)
}

func joinExec(ctx context.Context, agent machine.Agent, c *client, start []byte) error {
	guest, err := openExec(ctx, agent, start)
	if err != nil {
		return err
	}
	defer guest.Close()
	splice(ctx, c, guest, true)
	return nil
}

// readStart decodes the first frame of a stream into out and returns its payload.
func readStart(c *client, in *proto.Reader, out any) ([]byte, error) {
	c.SetReadDeadline(time.Now().Add(startTimeout))
	t, payload, err := in.ReadFrame()
	c.SetReadDeadline(time.Time{})
	switch {
	case err != nil:
		return nil, fault.New(fault.Invalid, "reading the stream's first frame: %w", err)
	case t != proto.FrameStart:
		return nil, fault.New(fault.Invalid, "the stream's first frame has type %d, not %d", t, proto.FrameStart)
	}
	return payload, decodeStrict(payload, out)
}

// refuse ends a stream with an error and waits a moment for the client to read it.
func (c *client) refuse(p api.StreamProblem) {
	c.SetDeadline(time.Now().Add(linger))
	if err := proto.NewWriter(c).WriteJSON(proto.FrameError, p); err == nil {
		c.CloseWrite()
		_ = pump(io.Discard, c)
	}
}

// frames returns a reader of frames with a large buffer.
func frames(r io.Reader) *proto.Reader {
	return proto.NewReader(bufio.NewReaderSize(r, proto.MaxFrame))
}

func encodeStart(req proto.ExecRequest) ([]byte, error) {
	payload, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encoding the command: %w", err)
	}
	if len(payload) > proto.MaxFrame {
		return nil, fault.New(fault.Invalid, "the command takes %d bytes; %d is the most", len(payload), proto.MaxFrame)
	}
	return payload, nil
}
