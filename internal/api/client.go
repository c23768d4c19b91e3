package api

const (
	// Generation counts incompatible changes of this API. A client states its own in
	// HeaderGeneration. The daemon refuses a request of another generation before it does anything.
	Generation = 3
	// HeaderGeneration is optional. Without it the request counts as one of the daemon's
	// generation.
	HeaderGeneration = "Banger-Api"
	// HeaderRequestID holds the id of a request: always in the answer, and in the request if the
	// client chooses the id. requestid.Valid says which ids a client may choose.
	HeaderRequestID = "Banger-Request-Id"
	// Host is the only Host header that the daemon accepts. A web page that makes a browser send
	// requests here cannot set it.
	Host = "banger"
)

// Client speaks to the daemon. Its operations are grouped by what they are about: c.VMs().Start is
// an example. A Client is safe for concurrent use. An error that the daemon reported is an *Error.
// All errors have a fault kind.
type Client struct{ t *transport }

// Dial returns a client for the daemon that listens on the unix socket. The client connects at the
// first request. Connect connects at once and can start the daemon.
func Dial(socket string) *Client { return &Client{newTransport(socket)} }

// Socket is the path of the socket that the client connects to.
func (c *Client) Socket() string { return c.t.socket }

// Close closes idle connections. Streams and requests under way continue.
func (c *Client) Close() error {
	c.t.close()
	return nil
}

// Daemon returns the operations on the daemon itself.
func (c *Client) Daemon() Daemon { return Daemon{c.t} }

// VMs returns the operations on VMs from outside: records, starts and stops, forks.
func (c *Client) VMs() VMs { return VMs{resource{c.t, "vms"}} }

// Guests returns the operations inside running VMs: commands, connections, files.
func (c *Client) Guests() Guests { return Guests{resource{c.t, "vms"}} }

// Images returns the operations on images.
func (c *Client) Images() Images { return Images{resource{c.t, "images"}} }

// Kernels returns the operations on kernels.
func (c *Client) Kernels() Kernels { return Kernels{resource{c.t, "kernels"}} }

// Snapshots returns the operations on snapshots.
func (c *Client) Snapshots() Snapshots { return Snapshots{resource{c.t, "snapshots"}} }

// Templates returns the operations on templates.
func (c *Client) Templates() Templates { return Templates{resource{c.t, "templates"}} }
