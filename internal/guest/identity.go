package guest

import (
	"context"
	"net/http"
	"sync"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/pace"
)

// Assume gives the machine its identity and returns when the machine has it. If the image has an
// init, that is when the agent beside the init answers.
func (c *Client) Assume(ctx context.Context, doc proto.Assume) (proto.Assumed, error) {
	session, err := c.connected(ctx)
	if err != nil {
		return proto.Assumed{}, routeError(http.MethodPost, "/v1/assume", err)
	}
	body, err := forGeneration(session.Generation(), doc)
	if err != nil {
		return proto.Assumed{}, err
	}
	defer boundHooks(ctx, c, hooksTime)()
	var reply proto.Assumed
	if err := c.call(ctx, http.MethodPost, "/v1/assume", body, &reply); err != nil {
		return proto.Assumed{}, err
	}
	reply.Marks = marks(reply.Marks)
	if !reply.Handover {
		return reply, nil
	}
	reply.Marks, err = awaitHandover(ctx, c)
	return reply, err
}

// hooksTime is the nominal time of all fork hooks of a machine: see package pace.
const hooksTime = 10 * time.Second

// boundHooks ends the fork hooks of an assume that take too long for this host. The agent counts
// their time: they begin at some point of the assume. An agent that does not know the request, or
// runs no hooks at that moment, does nothing.
func boundHooks(ctx context.Context, c *Client, nominal time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var bounding sync.WaitGroup
	bounding.Go(func() {
		for ctx.Err() == nil {
			began := time.Now()
			pace.Pass(ctx, nominal)
			if ctx.Err() == nil {
				_ = c.call(ctx, http.MethodPost, "/v1/endhooks?after="+time.Since(began).String(), nil, nil)
			}
		}
	})
	return func() { cancel(); bounding.Wait() }
}

// firstPatience is how long the agent beside the init may take to answer the first time. Process 1
// may have accepted the session last and have become the init before it could end it. Then nobody
// ever answers.
const firstPatience = time.Second

// awaitHandover waits until the agent beside the init answers, and returns its marks.
func awaitHandover(ctx context.Context, c *Client) ([]proto.Mark, error) {
	for patience := firstPatience; ; patience *= 2 {
		c.Redial()
		h, err := c.helloWithin(ctx, patience)
		switch {
		case err == nil && h.Assumed && h.Init:
			return h.Marks, nil
		case ctx.Err() != nil:
			return nil, fault.New(fault.Unavailable, "waiting for the agent beside the image's init: %w", context.Cause(ctx))
		case err != nil && fault.KindOf(err) != fault.Unavailable:
			return nil, err
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return nil, fault.New(fault.Unavailable, "waiting for the agent beside the image's init: %w", err)
		}
	}
}

func (c *Client) helloWithin(ctx context.Context, patience time.Duration) (proto.Hello, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return c.Hello(ctx)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// assume1 is the Assume of generation 1: one card, which is the first, and no list.
type assume1 struct {
	proto.Assume
	Networks []proto.Network `json:"networks,omitempty"` // hides the list
	Network  *proto.Network  `json:"network,omitempty"`
}

// forGeneration returns the document that an agent of that generation understands. Snapshots and
// suspended VMs of earlier builds hold such agents.
func forGeneration(generation int, doc proto.Assume) (any, error) {
	if generation > 1 {
		return doc, nil
	}
	old := assume1{Assume: doc}
	if len(doc.Networks) > 1 {
		return nil, fault.New(fault.Unsupported,
			"the agent in the VM is older than this banger and knows one network card only").
			WithHint("Stop and start the VM: it then runs the agent of this banger.")
	}
	if len(doc.Networks) == 1 {
		old.Network = &doc.Networks[0]
	}
	return old, nil
}

// Freeze halts every process in the guest but the agent, so that the machine can be saved. The
// machine stays frozen until Thaw or Assume, also when the session ends.
func (c *Client) Freeze(ctx context.Context) (proto.Frozen, error) {
	var f proto.Frozen
	if err := c.call(ctx, http.MethodPost, "/v1/freeze", nil, &f); err != nil {
		return proto.Frozen{}, err
	}
	f.Processes = max(f.Processes, 0)
	return f, nil
}

// Thaw wakes the guest after a pause: a frozen machine continues with the identity that it had. An
// agent of generation 1 ignores the networks, so its cards stay as they were saved.
func (c *Client) Thaw(ctx context.Context, t proto.Thaw) error {
	return c.call(ctx, http.MethodPost, "/v1/thaw", t, nil)
}
