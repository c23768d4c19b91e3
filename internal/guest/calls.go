package guest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/model"
)

// Bounds on lists from the guest. Longer ones are cut.
const (
	maxMarks = 64
	maxPorts = 4096
	maxDisks = 64
	maxName  = 128 // bytes of a version, a kernel's or a mark's name
)

// Hello waits until an agent answers, or ctx ends, and says who it is.
func (c *Client) Hello(ctx context.Context) (proto.Hello, error) { return c.hello(ctx, "") }

// Wake is Hello to a machine that an emulator has just restored. It has the guest start a program that does nothing, beside what it is asked for next, so
// that its first command takes about as long as any later one.
func (c *Client) Wake(ctx context.Context) (proto.Hello, error) {
	return c.hello(ctx, "?"+proto.Rehearse)
}

func (c *Client) hello(ctx context.Context, query string) (proto.Hello, error) {
	var h proto.Hello
	if err := c.call(ctx, http.MethodGet, "/v1/hello"+query, nil, &h); err != nil {
		return proto.Hello{}, err
	}
	if h.Generation < proto.MinGeneration || h.Generation > proto.Generation {
		return proto.Hello{}, fault.New(fault.Unsupported, "the guest's agent speaks generation %d; this banger speaks %d to %d",
			h.Generation, proto.MinGeneration, proto.Generation)
	}
	h.Version, h.Kernel = name(h.Version), name(h.Kernel)
	h.Marks = marks(h.Marks)
	return h, nil
}

func name(s string) string { return Clean(s[:min(len(s), maxName)]) }

func marks(in []proto.Mark) []proto.Mark {
	out := make([]proto.Mark, 0, min(len(in), maxMarks))
	for _, m := range in[:min(len(in), maxMarks)] {
		out = append(out, proto.Mark{Name: name(m.Name), At: max(m.At, 0)})
	}
	return out
}

// Assume gives the machine its identity and returns when the machine has it. Where the image has an init, that is when the agent
// beside the init answers.
func (c *Client) Assume(ctx context.Context, doc proto.Assume) (proto.Assumed, error) {
	var reply proto.Assumed
	if err := c.call(ctx, http.MethodPost, "/v1/assume", doc, &reply); err != nil {
		return proto.Assumed{}, err
	}
	reply.Marks = marks(reply.Marks)
	if !reply.Handover {
		return reply, nil
	}
	for patience := firstPatience; ; patience *= 2 {
		c.reset()
		h, err := c.helloWithin(ctx, patience)
		switch {
		case err == nil && h.Assumed && h.Init:
			reply.Marks = h.Marks
			return reply, nil
		case ctx.Err() != nil:
			return proto.Assumed{}, fault.New(fault.Unavailable, "waiting for the agent beside the image's init: %w", context.Cause(ctx))
		case err != nil && fault.KindOf(err) != fault.Unavailable:
			return proto.Assumed{}, err
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return proto.Assumed{}, fault.New(fault.Unavailable, "waiting for the agent beside the image's init: %w", err)
		}
	}
}

// firstPatience is how long the agent beside the init may take to answer, the first time. Process 1 may have taken the session up last, and have become
// the init before it could end it: then nobody ever answers.
const firstPatience = time.Second

func (c *Client) helloWithin(ctx context.Context, patience time.Duration) (proto.Hello, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return c.Hello(ctx)
}

// Sync returns when what the guest has written before is on its drives.
func (c *Client) Sync(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/sync", nil, nil)
}

// Freeze halts every process in the guest but the agent, so that the machine can be saved. A machine that is frozen stays so until Thaw
// or Assume, also when the session ends.
func (c *Client) Freeze(ctx context.Context) (proto.Frozen, error) {
	var f proto.Frozen
	if err := c.call(ctx, http.MethodPost, "/v1/freeze", nil, &f); err != nil {
		return proto.Frozen{}, err
	}
	f.Processes = max(f.Processes, 0)
	return f, nil
}

// Thaw tells the guest that time has gone by, and lets a frozen one go on as the machine that it was.
func (c *Client) Thaw(ctx context.Context, t proto.Thaw) error {
	return c.call(ctx, http.MethodPost, "/v1/thaw", t, nil)
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

// Upgrade opens a stream: "/v1/exec", "/v1/ssh", "/v1/dial?port=N". ctx bounds the opening only. What comes through it is the guest's.
// A dial stream is a *proto.Tunnel, so its directions can end apart.
func (c *Client) Upgrade(ctx context.Context, route string) (net.Conn, error) {
	u, err := url.Parse(route)
	if err != nil {
		return nil, fault.New(fault.Invalid, "%w", err)
	}
	header := http.Header{"Connection": {"Upgrade"}, "Upgrade": {proto.StreamProtocol}}
	x, err := c.send(ctx, http.MethodPost, route, header, nil)
	if err != nil {
		return nil, routeError(http.MethodPost, route, err)
	}
	if err := x.failure(http.StatusSwitchingProtocols); err != nil {
		x.Close()
		return nil, routeError(http.MethodPost, route, err)
	}
	if !x.stop() {
		x.Close()
		return nil, routeError(http.MethodPost, route, fault.New(fault.Unavailable, "%w", context.Cause(ctx)))
	}
	conn := &upgraded{Conn: x.conn, r: x.r}
	if u.Path == "/v1/dial" {
		return proto.NewTunnel(conn), nil
	}
	return conn, nil
}

// upgraded is a stream of which some bytes came together with the answer's head.
type upgraded struct {
	net.Conn
	r io.Reader
}

func (u *upgraded) Read(p []byte) (int, error) { return u.r.Read(p) }

// filesError leaves the request out: what goes wrong with files are mostly paths, which are the user's to correct.
func filesError(what, path string, err error) error {
	return fmt.Errorf("%s %s of the guest: %w", what, path, err)
}

// GetFiles returns a tar stream of path in the guest. It is the guest's data: nothing of it may be trusted. Closing it, or ctx's
// end, ends it.
func (c *Client) GetFiles(ctx context.Context, path string) (io.ReadCloser, error) {
	route := "/v1/files?" + url.Values{"path": {path}}.Encode()
	x, err := c.send(ctx, http.MethodGet, route, nil, nil)
	if err != nil {
		return nil, filesError("reading", path, err)
	}
	if err := x.failure(http.StatusOK); err != nil {
		x.Close()
		return nil, filesError("reading", path, err)
	}
	return x, nil
}

// PutFiles unpacks a tar stream at path in the guest.
func (c *Client) PutFiles(ctx context.Context, path string, archive io.Reader) error {
	route := "/v1/files?" + url.Values{"path": {path}}.Encode()
	x, err := c.send(ctx, http.MethodPut, route, nil, archive)
	if err != nil {
		return filesError("writing", path, err)
	}
	defer x.Close()
	if err := x.decode(nil); err != nil {
		return filesError("writing", path, err)
	}
	return nil
}

// Ports lists the TCP ports that listen in the guest.
func (c *Client) Ports(ctx context.Context) ([]proto.Port, error) {
	var ports []proto.Port
	if err := c.call(ctx, http.MethodGet, "/v1/ports", nil, &ports); err != nil {
		return nil, err
	}
	out := make([]proto.Port, 0, len(ports))
	for _, p := range ports[:min(len(ports), maxPorts)] {
		if p.Port > 0 && p.Port < 1<<16 {
			out = append(out, proto.Port{Port: p.Port, Addr: name(p.Addr)})
		}
	}
	return out, nil
}

// Resize grows the file system on a drive to the drive's size, once the guest sees it have at least size bytes: the news of a drive that
// has just grown takes a moment.
func (c *Client) Resize(ctx context.Context, serial string, size model.Bytes) error {
	route := "/v1/resize?" + url.Values{"serial": {serial}, "size": {strconv.FormatInt(int64(size), 10)}}.Encode()
	return c.call(ctx, http.MethodPost, route, nil, nil)
}

// Stats says how the guest is doing, by its own account.
func (c *Client) Stats(ctx context.Context) (proto.Stats, error) {
	var s proto.Stats
	if err := c.call(ctx, http.MethodGet, "/v1/stats", nil, &s); err != nil {
		return proto.Stats{}, err
	}
	s.Disks = s.Disks[:min(len(s.Disks), maxDisks)]
	for i := range s.Disks {
		s.Disks[i].Target = name(s.Disks[i].Target)
	}
	return s, nil
}

// PowerOff asks the guest to end itself cleanly, and returns when it has begun to.
func (c *Client) PowerOff(ctx context.Context) error {
	if err := c.call(ctx, http.MethodPost, "/v1/poweroff", nil, nil); err != nil {
		return fmt.Errorf("powering the guest off: %w", err)
	}
	return nil
}
