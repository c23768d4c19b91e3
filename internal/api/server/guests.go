package server

import (
	"context"
	"net/http"
	"strconv"
	"sync/atomic"

	"banger/internal/api/session"
	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/pace"
)

// Agents reaches the agents of running VMs.
type Agents interface {
	Agent(ctx context.Context, ref string) (machine.Agent, error)
	// Use is Agent and counts as use of the VM until done is called. It wakes a VM that was
	// suspended while idle.
	Use(ctx context.Context, ref string) (v model.VM, agent machine.Agent, done func(), err error)
}

// guestHandlers serve the operations inside running VMs. Commands are in exec.go and stream.go,
// runs in run.go, files in files.go.
type guestHandlers struct {
	*core
	vms       VMs
	agents    Agents
	images    Images
	sessions  *session.Set
	work      context.Context // of sessions; the daemon's end ends it
	execBytes *atomic.Int64   // output that plain exec calls hold
}

func (h guestHandlers) ports(r *http.Request) (any, error) {
	v, err := h.vms.Get(refOf(r))
	if err != nil {
		return nil, err
	}
	ctx, done, err := h.sessions.Begin(r.Context(), v.ID)
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, cancel := pace.Context(ctx, guestTimeout, "answer of the guest")
	defer cancel()
	agent, err := h.agents.Agent(ctx, v.ID)
	if err != nil {
		return nil, err
	}
	return orEmpty(agent.Ports(ctx))
}

func (h guestHandlers) ssh(w http.ResponseWriter, r *http.Request) error {
	return h.join(w, r, "/v1/ssh")
}

func (h guestHandlers) dial(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r, "port")
	port := q.number("port", 1, 65535)
	if q.err == nil && port == 0 {
		q.err = fault.New(fault.Invalid, "query parameter port is missing")
	}
	if q.err != nil {
		return q.err
	}
	return h.join(w, r, "/v1/dial?port="+strconv.Itoa(port))
}

// join joins the client and a stream of the guest. The connection is upgraded after the guest has
// agreed, so that a refusal is a problem.
func (h guestHandlers) join(w http.ResponseWriter, r *http.Request, route string) error {
	if err := checkUpgrade(r); err != nil {
		return err
	}
	v, agent, unuse, err := h.use(r)
	if err != nil {
		return err
	}
	defer unuse()
	ctx, done, err := h.beginSession(r, v.ID)
	if err != nil {
		return err
	}
	defer done()
	setup, cancel := pace.Context(ctx, guestTimeout, "answer of the guest")
	defer cancel()
	defer context.AfterFunc(r.Context(), cancel)()
	guest, err := agent.Upgrade(setup, route)
	if err != nil {
		return err
	}
	defer guest.Close()
	c, err := upgrade(w)
	if err != nil {
		return err
	}
	splice(ctx, c, guest)
	return nil
}

// use returns a VM and its agent for a request that counts as use of the VM until done is called.
// It wakes a VM that was suspended while idle.
func (h guestHandlers) use(r *http.Request) (v model.VM, agent machine.Agent, done func(), err error) {
	return h.agents.Use(r.Context(), refOf(r))
}
