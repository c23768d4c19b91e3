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
	"banger/internal/guest/report"
	"banger/internal/model"
)

// Bounds on lists from the guest. Longer ones are cut.
const (
	maxMarks = 64
	maxPorts = 4096
	maxDisks = 64
)

// Hello waits until an agent answers, or ctx ends, and returns the answer.
func (c *Client) Hello(ctx context.Context) (proto.Hello, error) { return c.hello(ctx, "") }

// Wake is Hello to a machine that an emulator has just restored. The guest also starts a program
// that does nothing, beside the requests that follow, so that its first command takes about as long
// as any later one.
func (c *Client) Wake(ctx context.Context) (proto.Hello, error) {
	return c.hello(ctx, "?"+proto.Rehearse)
}

func (c *Client) hello(ctx context.Context, query string) (proto.Hello, error) {
	var h proto.Hello
	if err := c.call(ctx, http.MethodGet, "/v1/hello"+query, nil, &h); err != nil {
		return proto.Hello{}, err
	}
	if h.Generation < proto.MinGeneration || h.Generation > proto.Generation {
		return proto.Hello{}, fault.New(fault.Unsupported,
			"the guest's agent speaks generation %d; this banger speaks %d to %d",
			h.Generation, proto.MinGeneration, proto.Generation)
	}
	h.Version, h.Kernel = report.Name(h.Version), report.Name(h.Kernel)
	h.Marks = marks(h.Marks)
	return h, nil
}

func marks(in []proto.Mark) []proto.Mark {
	out := make([]proto.Mark, 0, min(len(in), maxMarks))
	for _, m := range in[:min(len(in), maxMarks)] {
		out = append(out, proto.Mark{Name: report.Name(m.Name), At: max(m.At, 0)})
	}
	return out
}

// Writes returns what was written in the guest since it got its identity.
func (c *Client) Writes(ctx context.Context) (proto.Writes, error) {
	var w proto.Writes
	if err := c.call(ctx, http.MethodGet, "/v1/writes", nil, &w); err != nil {
		return proto.Writes{}, err
	}
	bound := func(list []string) (kept []string) {
		for _, path := range list[:min(len(list), proto.MaxWrites)] {
			if len(path) <= proto.MaxWritePath {
				kept = append(kept, path)
			}
		}
		return kept
	}
	paths, links := bound(w.Paths), bound(w.Links)
	w.More = w.More || len(paths) < len(w.Paths) || len(links) < len(w.Links)
	w.Paths, w.Links, w.Renewed = paths, links, bound(w.Renewed)
	return w, nil
}

// Sync returns when the guest's earlier writes are on its drives.
func (c *Client) Sync(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/sync", nil, nil)
}

// Upgrade opens a stream: "/v1/exec", "/v1/ssh", "/v1/dial?port=N". ctx bounds the opening only.
// Its data is hostile. A dial stream is a *proto.Tunnel, whose directions can end separately.
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

// upgraded is a stream. Some of its bytes were read together with the answer's head.
type upgraded struct {
	net.Conn
	r io.Reader
}

func (u *upgraded) Read(p []byte) (int, error) { return u.r.Read(p) }

// filesError names no request: most errors are about paths, and the user can correct those.
func filesError(what, path string, err error) error {
	return fmt.Errorf("%s %s of the guest: %w", what, path, err)
}

// GetFiles returns a tar stream of path in the guest. The stream is hostile input. Closing it ends
// it, and so does the end of ctx. The stream fails if the guest is silent for too long.
func (c *Client) GetFiles(ctx context.Context, path string) (io.ReadCloser, error) {
	route := "/v1/files?" + url.Values{"path": {path}}.Encode()
	x, err := c.sendFor(ctx, http.MethodGet, route, nil, nil, c.silence)
	if err != nil {
		return nil, filesError("reading", path, err)
	}
	if err := x.failure(http.StatusOK); err != nil {
		x.Close()
		return nil, filesError("reading", path, err)
	}
	return x, nil
}

// PutFiles unpacks a tar stream at path in the guest. It waits for the archive for as long as the
// archive's reader does, and not for a guest that is silent for too long.
func (c *Client) PutFiles(ctx context.Context, path string, archive io.Reader) error {
	route := "/v1/files?" + url.Values{"path": {path}}.Encode()
	x, err := c.sendFor(ctx, http.MethodPut, route, nil, archive, c.silence)
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
			out = append(out, proto.Port{Port: p.Port, Addr: report.Name(p.Addr)})
		}
	}
	return out, nil
}

// Resize grows the file system on a drive to the drive's size. It waits until the guest sees at
// least size bytes: the news of a drive that has just grown takes a moment. serial is the drive's
// id (proto.Root).
func (c *Client) Resize(ctx context.Context, serial string, size model.Bytes) error {
	route := "/v1/resize?" + url.Values{"serial": {serial}, "size": {strconv.FormatInt(int64(size), 10)}}.Encode()
	return c.call(ctx, http.MethodPost, route, nil, nil)
}

// Stats returns the guest's use of its resources, by its own account.
func (c *Client) Stats(ctx context.Context) (proto.Stats, error) {
	var s proto.Stats
	if err := c.call(ctx, http.MethodGet, "/v1/stats", nil, &s); err != nil {
		return proto.Stats{}, err
	}
	s.Disks = s.Disks[:min(len(s.Disks), maxDisks)]
	for i := range s.Disks {
		s.Disks[i].Target = report.Name(s.Disks[i].Target)
	}
	return s, nil
}

// PowerOff asks the guest to end itself cleanly. It returns when the guest has begun. grace is how
// long its processes may take to end; 0 kills them now. A guest's init has its own times.
func (c *Client) PowerOff(ctx context.Context, grace time.Duration) (proto.Ending, error) {
	var e proto.Ending
	if err := c.call(ctx, http.MethodPost, "/v1/poweroff?grace="+grace.String(), nil, &e); err != nil {
		return proto.Ending{}, fmt.Errorf("powering the guest off: %w", err)
	}
	e.Killed = e.Killed[:min(len(e.Killed), proto.MaxKilled)]
	for i := range e.Killed {
		e.Killed[i] = report.Name(e.Killed[i])
	}
	return e, nil
}
