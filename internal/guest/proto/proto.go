// Package proto is what the host and the agent in the guest say to each other: the generation they speak, the documents they
// exchange and the frames of a stream. It is shared by both sides and imports the standard library only.
//
// # Transport
//
// The channel is one raw byte stream (a virtio-serial port on QEMU, a vsock stream on Firecracker). A virtio-serial port
// does not tell either side reliably when the other one went away, so each session begins with a handshake that
// both sides can find in a stream of left-over bytes:
//
//	host  -> agent   "\nBANGER/<generation> <nonce>\n"    repeated until it is echoed
//	agent -> host    "\nBANGER/<generation> <nonce>\n"    once for each different nonce
//
// After the echo both sides run yamux on the stream (the agent is the server), and the agent serves HTTP/1.1 on yamux's
// streams. An agent that finds a handshake or garbage where yamux frames should be ends the session and looks for a handshake again.
//
// # Generations
//
// Generation counts incompatible changes. The host speaks every generation from MinGeneration on, because a stored
// snapshot holds the agent that it was taken with; an agent speaks only its own.
//
// # Routes
//
//	GET  /v1/hello           Hello; with ?rehearse to a machine that was just restored and will run a command soon
//	POST /v1/freeze          halts every process but the agent's own -> Frozen; the moment at which a machine may be saved
//	POST /v1/thaw            Thaw; lets a frozen (or merely paused) machine go on as the one that it was
//	POST /v1/assume          Assume -> Assumed; once in the life of a boot, and once more after each freeze: then the machine is a fork
//	POST /v1/exec            upgrade to StreamProtocol: frames, the first one FrameStart with an ExecRequest
//	POST /v1/ssh             upgrade to StreamProtocol: the SSH protocol (RFC 4253), the agent is the server
//	POST /v1/dial?port=N     upgrade to StreamProtocol: a Tunnel to the TCP port N of the guest's own
//	GET  /v1/files?path=P    a tar stream of P: see package archive
//	PUT  /v1/files?path=P    unpacks the tar stream in the body at P
//	POST /v1/resize?serial=S&size=N  waits until that drive has N bytes (0 or none: as it is), and grows its file system to its size
//	POST /v1/sync            returns when what was written before is on the drives; before a machine is saved
//	GET  /v1/stats           Stats
//	GET  /v1/ports           []Port: the TCP ports that listen in the guest
//	POST /v1/poweroff        ends the machine cleanly: the init's way where there is one, else sync, read-only, power off
//
// An error is any status from 400 on with an Error as JSON.
package proto

import (
	"time"
)

// Rehearse is the query with which a hello asks the guest to start a program that does nothing. An agent that does not know it takes no notice.
const Rehearse = "rehearse"

// Generations. See the package comment.
const (
	Generation    = 1
	MinGeneration = 1
)

// StreamProtocol is the value of the Upgrade header of streams.
const StreamProtocol = "banger-stream"

// Bounds. What is larger is refused by whoever receives it.
const (
	MaxFrame  = 64 << 10 // bytes of a frame's payload
	MaxAssume = 8 << 20  // bytes of an Assume as JSON
	MaxReply  = 1 << 20  // bytes of any other JSON reply
)

// PortName is the name of the agent's virtio-serial port (/sys/class/virtio-ports/*/name).
const PortName = "banger.agent"

// Serial numbers of the drives.
const (
	SerialImage  = "image"
	SerialSystem = "system"
	SerialWork   = "work"
)

// Hello is how the agent introduces itself.
type Hello struct {
	Generation int           `json:"generation"`
	Version    string        `json:"version"` // the agent's build
	Kernel     string        `json:"kernel"`  // uname -r
	Assumed    bool          `json:"assumed"` // whether this machine has its identity already
	Init       bool          `json:"init"`    // whether the agent runs beside the image's init
	Frozen     bool          `json:"frozen"`  // between freeze and thaw or assume
	Forks      int           `json:"forks"`   // how often the machine has been given another identity: the number in /run/banger/generation
	Uptime     time.Duration `json:"uptime"`  // nanoseconds since the kernel started (CLOCK_BOOTTIME)
	Marks      []Mark        `json:"marks"`   // moments of the boot
}

// Mark is a moment of the boot.
type Mark struct {
	Name string        `json:"name"` // "init", "modules", "ready", "root", "assumed", and "beside" when the image's init took over
	At   time.Duration `json:"at"`   // nanoseconds since the kernel started
}

// Frozen is the answer to freeze.
type Frozen struct {
	Processes int `json:"processes"` // how many were halted
}

// Thaw tells a machine that time has gone by. Entropy and time are taken up before any process goes on.
type Thaw struct {
	Entropy []byte    `json:"entropy"` // at least 32 bytes
	Time    time.Time `json:"time"`
}

// Assume gives a machine its identity. A cold boot and a fork take the same message: what a fork must change is exactly what a boot
// must set. The agent carries it out in the order of the fields. Of a frozen machine the root stays as it is, and so do mounts that are there
// already; the processes go on when everything else is done and the hooks in /etc/banger/fork.d have run.
type Assume struct {
	Entropy  []byte    `json:"entropy"` // at least 32 bytes for the kernel's random generator
	Time     time.Time `json:"time"`
	Hostname string    `json:"hostname"`

	Root    Root     `json:"root"`
	Network *Network `json:"network,omitempty"` // nil: no card, loopback only
	Mounts  []Mount  `json:"mounts,omitempty"`

	HostKey        []byte   `json:"host_key"`        // of the SSH server, PEM (PKCS #8 or OpenSSH)
	AuthorizedKeys []string `json:"authorized_keys"` // lines of an authorized_keys file; they may log in as any user of the image
	MachineID      string   `json:"machine_id"`      // 32 hex digits for /etc/machine-id

	Files []File `json:"files,omitempty"` // written after the mounts

	Env     []string `json:"env,omitempty"`     // NAME=VALUE, the base for every command; later ones win
	User    string   `json:"user,omitempty"`    // of commands that name none: user, uid, user:group, uid:gid; "" is root
	Workdir string   `json:"workdir,omitempty"` // of commands that name none; "" is the user's home

	Init []string `json:"init,omitempty"` // argv of the image's init; empty: the agent stays process 1
}

// Root says what / is made of.
type Root struct {
	Image  string `json:"image"`  // serial number of the read-only image
	System string `json:"system"` // serial number of the writable ext4 that holds the overlay's upper layer

	// Bytes that the drives have, when the host knows. A machine that was forked before it had looked at its drives remembers another's sizes, and
	// looks again.
	ImageSize  int64 `json:"image_size,omitempty"`
	SystemSize int64 `json:"system_size,omitempty"`
}

// Mount is an ext4 drive at a place of its own. The agent grows its file system to the drive's size.
type Mount struct {
	Serial string `json:"serial"`
	Target string `json:"target"`
	Seed   bool   `json:"seed"`           // when the drive has never been mounted: copy what the image has at Target into it first
	Size   int64  `json:"size,omitempty"` // bytes that the drive has, as in Root
}

// Network is the configuration of the one network card.
type Network struct {
	MAC     string   `json:"mac,omitempty"` // to set, when it is not what the card has
	Address string   `json:"address"`       // prefix: "10.0.2.15/24"
	Gateway string   `json:"gateway"`       // address
	DNS     []string `json:"dns"`           // addresses for /etc/resolv.conf
	Search  []string `json:"search,omitempty"`
	MTU     int      `json:"mtu,omitempty"` // 0: leave it
}

// File is a file to write. Missing parent folders are made with mode 0755 and the same owner.
type File struct {
	Path string `json:"path"` // absolute, in the guest; symbolic links in it are followed
	Mode uint32 `json:"mode"` // permission bits
	UID  int    `json:"uid"`
	GID  int    `json:"gid"`
	Data []byte `json:"data"`
	Keep bool   `json:"keep,omitempty"` // leave a file that is there already as it is
}

// Assumed is the answer to Assume.
type Assumed struct {
	// Handover means that the agent goes on beside the image's init as a new process: this session ends, and the host
	// begins another one.
	Handover bool   `json:"handover"`
	Marks    []Mark `json:"marks"`
}

// ExecRequest is what to run.
type ExecRequest struct {
	Argv    []string `json:"argv"`              // argv[0] is looked up in the command's PATH; empty: the user's login shell
	Env     []string `json:"env,omitempty"`     // NAME=VALUE, on top of the assumed ones
	User    string   `json:"user,omitempty"`    // as in Assume
	Workdir string   `json:"workdir,omitempty"` //
	TTY     bool     `json:"tty,omitempty"`     // a pseudo-terminal; standard error then comes as standard output
	Size    *Size    `json:"size,omitempty"`    // of the terminal
	Stdin   bool     `json:"stdin,omitempty"`   // false: standard input is empty
	Detach  bool     `json:"detach,omitempty"`  // say FrameExit with code 0 once it runs, and let it run; its output goes to the guest's console
}

// Size is a terminal's size in characters.
type Size struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// Exit is how a command ended. A command that cannot be started ends with code 127 (not found) or 126 (found, not executable) and says why on
// standard error, as a shell does.
type Exit struct {
	Code   int    `json:"code"`             // exit status; 128+n after death by signal n
	Signal string `json:"signal,omitempty"` // "SIGKILL", when a signal ended it
}

// Stats is how the guest is doing.
type Stats struct {
	Uptime     time.Duration `json:"uptime"`    // nanoseconds
	Load       [3]float64    `json:"load"`      // 1, 5, 15 minutes
	MemTotal   int64         `json:"mem_total"` // bytes
	MemUsed    int64         `json:"mem_used"`  // bytes: total less available
	AgentRSS   int64         `json:"agent_rss"` // bytes
	CPUBusy    time.Duration `json:"cpu_busy"`  // nanoseconds over all CPUs since boot, not idle and not waiting
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

// Error is an error of the agent's.
type Error struct {
	Kind string `json:"kind"` // one of package fault's kinds
	Msg  string `json:"message"`
}

func (e *Error) Error() string { return e.Msg }
