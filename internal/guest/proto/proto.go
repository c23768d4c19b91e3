// Package proto is the protocol between the host and the agent in the guest: the generations, the
// documents that they exchange and the frames of a stream. Both sides share it. It imports the
// standard library only.
//
// docs/internals/agent-protocol.md describes the transports, the handshake and the session below
// these documents.
//
// # Generations
//
// Generation counts incompatible changes. The host speaks every generation from MinGeneration on,
// because a stored snapshot holds the agent that it was taken with. An agent speaks only its own.
//
//	1  one network card: Assume has "network", not "networks"; Thaw has none; no services
//	2  any number of cards; services
//
// # Routes
//
//	GET  /v1/hello          Hello; with ?rehearse if a command will soon run in a restored machine
//	POST /v1/freeze         halts all processes but the agent -> Frozen; then it may be saved
//	POST /v1/thaw           Thaw; the machine continues with the identity that it had
//	POST /v1/assume         Assume -> Assumed; once per boot; after a freeze it makes a fork
//	POST /v1/endhooks?after=D   ends the fork hooks of an assume that is under way, once they
//	                        have run for D
//	POST /v1/exec           a stream of frames, the first one FrameStart with an ExecRequest
//	POST /v1/ssh            a stream of the SSH protocol (RFC 4253), the agent is the server
//	POST /v1/dial?port=N    a stream: a Tunnel to the TCP port N of the guest itself
//	GET  /v1/files?path=P   a tar stream of P: see package archive
//	PUT  /v1/files?path=P   unpacks the tar stream in the body at P
//	POST /v1/resize?serial=S&size=N   grows the file system on drive S once it has N bytes
//	POST /v1/sync           returns when earlier writes are on the drives
//	GET  /v1/stats          Stats
//	GET  /v1/ports          []Port: the TCP ports that listen in the guest
//	POST /v1/poweroff?grace=D   ends the machine cleanly -> Ending; by the image's init if any,
//	                        otherwise processes get SIGTERM, and D later SIGKILL
//
// A stream begins with an HTTP upgrade to StreamProtocol. An error is any status from 400 on with
// an Error as JSON. A request may carry HeaderRequestID.
package proto

import (
	"time"
)

// Rehearse is the query with which a hello asks the guest to start a program that does nothing. An
// agent that does not know it ignores it.
const Rehearse = "rehearse"

// Generations. See the package comment.
const (
	Generation    = 2
	MinGeneration = 1
)

// StreamProtocol is the value of the Upgrade header of streams.
const StreamProtocol = "banger-stream"

// HeaderRequestID carries the id of the API request that the host is serving. The agent logs it.
const HeaderRequestID = "Banger-Request-Id"

// Bounds. The receiver refuses anything larger.
const (
	MaxFrame  = 64 << 10 // bytes of a frame's payload
	MaxAssume = 8 << 20  // bytes of an Assume as JSON
	MaxReply  = 1 << 20  // bytes of any other JSON reply
)

// PortName is the name of the agent's virtio-serial port (/sys/class/virtio-ports/*/name).
const PortName = "banger.agent"

// The kernel argument that selects the agent's transport. If unset, the agent uses the port
// PortName.
const (
	TransportArgument = "banger.agent"
	TransportVsock    = "vsock:52" // listen on VsockPort
	VsockPort         = 52
)

// Ids of the drives that banger itself attaches, on a driver whose guests see the ids that it
// chose.
const (
	SerialImage  = "image"
	SerialSystem = "system"
	SerialWork   = "work"
)

// Hello is the agent's answer to the first request of a session.
type Hello struct {
	Generation int           `json:"generation"`
	Version    string        `json:"version"` // the agent's build
	Kernel     string        `json:"kernel"`  // uname -r
	Assumed    bool          `json:"assumed"` // whether this machine has its identity already
	Init       bool          `json:"init"`    // whether the agent runs beside the image's init
	Frozen     bool          `json:"frozen"`  // between freeze and thaw or assume
	Forks      int           `json:"forks"`   // identities after the first one
	Uptime     time.Duration `json:"uptime"`  // nanoseconds since boot (CLOCK_BOOTTIME)
	Marks      []Mark        `json:"marks"`   // moments of the boot
}

// Mark is a moment of the boot: "init", "modules", "ready", "root", "assumed", or "beside" when the
// image's init took over.
type Mark struct {
	Name string        `json:"name"`
	At   time.Duration `json:"at"` // nanoseconds since the kernel started
}

// Frozen is the answer to freeze.
type Frozen struct {
	Processes int `json:"processes"` // how many were halted
}

// Writes is the answer to writes: what was written to the machine's drives since it got its
// identity. Directories, empty files, and what is below /tmp, /run, /var/log, /var/cache and
// /var/tmp are left out.
type Writes struct {
	Paths []string `json:"paths"`           // of files
	Links []string `json:"links,omitempty"` // of symbolic links; with Paths at most MaxWrites
	More  bool     `json:"more,omitempty"`  // there are more, or there is too much to search
	// Renewed are files that the image's fork hooks make anew: see WritesRenewed. A directory ends
	// with a slash.
	Renewed []string `json:"renewed,omitempty"`
}

// Bounds on Writes, and the beginning of a line in a fork hook that names a file that it makes
// anew.
const (
	MaxWrites     = 256
	MaxWritePath  = 1024 // bytes; a longer path counts as More
	WritesRenewed = "# regenerates "
)

// Thaw wakes a machine after a pause. The agent applies entropy, time and networks before any
// process continues. Thawing a machine that is not frozen, or thawing twice, is harmless.
type Thaw struct {
	Entropy  []byte    `json:"entropy"` // at least 32 bytes
	Time     time.Time `json:"time"`
	Networks []Network `json:"networks,omitempty"` // cards to configure again; may be none
}

// Assume gives a machine its identity. A boot and a fork take the same message, applied in the
// order of the fields. A frozen machine keeps its root and mounts. Then its fork hooks run, and its
// processes continue. If a hook fails that makes files anew (WritesRenewed), so does assume.
type Assume struct {
	Entropy  []byte    `json:"entropy"` // at least 32 bytes for the kernel's random generator
	Time     time.Time `json:"time"`
	Hostname string    `json:"hostname"`

	Root     Root      `json:"root"`
	Networks []Network `json:"networks,omitempty"` // one per card to configure; none: loopback only
	Mounts   []Mount   `json:"mounts,omitempty"`

	HostKey        []byte   `json:"host_key"`        // of the SSH server, PEM (PKCS #8 or OpenSSH)
	AuthorizedKeys []string `json:"authorized_keys"` // authorized_keys(5), for all users
	MachineID      string   `json:"machine_id"`      // 32 hex digits for /etc/machine-id

	Files []File `json:"files,omitempty"` // written after the mounts

	Env     []string `json:"env,omitempty"`     // NAME=VALUE; later ones win
	User    string   `json:"user,omitempty"`    // default: name, uid, user:group, uid:gid; "": root
	Workdir string   `json:"workdir,omitempty"` // default working directory; "" is the user's home

	Init []string `json:"init,omitempty"` // of the image; empty: the agent stays process 1
}

// Root names the drives that form /. A drive's id is the string in /sys/block/*/serial under which
// this guest finds it. The device returns 20 bytes (virtio 1.2, VIRTIO_BLK_T_GET_ID), so the agent
// cuts longer ids.
type Root struct {
	Image  string `json:"image"`  // id of the read-only image
	System string `json:"system"` // id of the writable ext4 that holds the overlay's upper layer

	// Bytes that the drives have; 0 if unknown. A machine that was forked before it mounted its
	// drives remembers other sizes. If they differ, the agent probes the drive again.
	ImageSize  int64 `json:"image_size,omitempty"`
	SystemSize int64 `json:"system_size,omitempty"`
}

// Mount is an ext4 drive with a mount point of its own. The agent grows its file system to the
// drive's size.
type Mount struct {
	Serial string `json:"serial"` // id of the drive, as in Root
	Target string `json:"target"`
	Seed   bool   `json:"seed"`           // at first, copy the image's files at Target to it
	Size   int64  `json:"size,omitempty"` // bytes that the drive has, as in Root
}

// Network is the configuration of one network card.
type Network struct {
	Card    Card     `json:"card"`
	MAC     string   `json:"mac,omitempty"` // set this address if the card has another one
	Address string   `json:"address"`       // prefix: "10.0.2.15/24"
	Gateway string   `json:"gateway"`       // address; an earlier network is preferred
	DNS     []string `json:"dns"`           // addresses for /etc/resolv.conf
	Search  []string `json:"search,omitempty"`
	MTU     int      `json:"mtu,omitempty"` // 0: leave it
}

// Card selects a network card of the guest. The zero value is the first card.
type Card struct {
	MAC   string `json:"mac,omitempty"`   // its address now, which may be Network.MAC
	Index int    `json:"index,omitempty"` // if MAC is unset: place among the virtio cards, from 0
}

// File is a file to write. The agent makes missing parent directories with mode 0755 and the same
// owner.
type File struct {
	Path string `json:"path"` // absolute, in the guest; symbolic links in it are followed
	Mode uint32 `json:"mode"` // permission bits
	UID  int    `json:"uid"`
	GID  int    `json:"gid"`
	Data []byte `json:"data"`
	Keep bool   `json:"keep,omitempty"` // keep an existing file as it is
}

// Assumed is the answer to Assume.
type Assumed struct {
	// Handover means that a new process of the agent serves beside the image's init from now on.
	// This session ends, and the host begins another one.
	Handover bool   `json:"handover"`
	Marks    []Mark `json:"marks"`
}

// ExecRequest is a command to run.
type ExecRequest struct {
	Argv    []string `json:"argv"`              // argv[0] may need PATH; empty: the login shell
	Env     []string `json:"env,omitempty"`     // NAME=VALUE, added to those of Assume
	User    string   `json:"user,omitempty"`    // as in Assume
	Workdir string   `json:"workdir,omitempty"` // as in Assume
	TTY     bool     `json:"tty,omitempty"`     // use a pseudo-terminal; there is no stderr then
	Size    *Size    `json:"size,omitempty"`    // of the terminal
	Stdin   bool     `json:"stdin,omitempty"`   // false: standard input is empty
	Detach  bool     `json:"detach,omitempty"`  // FrameExit 0 at once; output to the console
}

// Size is a terminal's size in characters.
type Size struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// Exit is how a command ended. If it cannot be started, the code is 127 (not found) or 126 (not
// executable), and the reason is on standard error, as with a shell.
type Exit struct {
	Code   int    `json:"code"`             // exit status; 128+n after death by signal n
	Signal string `json:"signal,omitempty"` // "SIGKILL", when a signal ended it
}

// Ending is the answer to poweroff. A later request replaces the grace of an earlier one. A request
// with the grace 0 kills what still runs.
type Ending struct {
	Killed []string `json:"killed,omitempty"` // names of programs that this request kills
}

// MaxKilled bounds the list in an Ending.
const MaxKilled = 8

// Stats is the guest's use of its resources, by its own account.
type Stats struct {
	Uptime     time.Duration `json:"uptime"`    // nanoseconds
	Load       [3]float64    `json:"load"`      // 1, 5, 15 minutes
	MemTotal   int64         `json:"mem_total"` // bytes
	MemUsed    int64         `json:"mem_used"`  // bytes: total less available
	AgentRSS   int64         `json:"agent_rss"` // bytes
	CPUBusy    time.Duration `json:"cpu_busy"`  // nanoseconds over all CPUs since boot
	Processes  int           `json:"processes"` //
	Disks      []DiskUse     `json:"disks"`     // / and the mounts
	NetRxBytes int64         `json:"net_rx_bytes"`
	NetTxBytes int64         `json:"net_tx_bytes"`
}

// DiskUse is how full a file system is.
type DiskUse struct {
	Target string `json:"target"`
	Size   int64  `json:"size"` // bytes
	Used   int64  `json:"used"` // bytes
}

// Port is a listening TCP port in the guest.
type Port struct {
	Port int    `json:"port"`
	Addr string `json:"addr"` // the address that it is bound to
}

// Error is the JSON of an error answer.
type Error struct {
	Kind string `json:"kind"` // one of package fault's kinds
	Msg  string `json:"message"`
	Full bool   `json:"full,omitempty"` // the reason is a full disk of the guest
}

func (e *Error) Error() string { return e.Msg }
