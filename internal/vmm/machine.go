package vmm

import (
	"net"

	"banger/internal/model"
)

// Machine describes a machine to a driver. It is plain data: the same description gives the same
// command line.
type Machine struct {
	ID     string // the VM's id, which is on the command line of the process: a leak shows its VM
	RunDir string // a directory of mode 0700 for sockets; its path is short enough for them

	Kernel    string   // path of an uncompressed ELF vmlinux
	Initramfs []string // paths of newc archives; the kernel unpacks them in this order
	Cmdline   []string // kernel arguments, in addition to those that the driver needs

	// BootID stands for the content of Kernel and Initramfs, wherever their files lie. Fingerprint
	// needs it; a machine that boots nothing has none.
	BootID string

	VCPUs  int
	Memory model.Bytes
	Drives []Drive
	NICs   []NIC

	ConsoleLog string      // path of the log of the guest's console (package console)
	ConsoleMax model.Bytes // the bound of this log; the newest bytes stay
	VMMLog     string      // path of the VMM's own output, which the driver bounds
}

// Drive is a block device. The guest finds it by an id, never by its place: see Instance.DriveID.
type Drive struct {
	// Name is the host's name of the drive, unique in its machine: up to 20 letters, digits, - and
	// _. If the driver may choose the guest's id of the drive, the id is the name.
	Name     string
	Path     string // of a raw image
	ReadOnly bool
}

// NIC is a network card.
type NIC struct {
	Kind NICKind
	MAC  net.HardwareAddr
	Tap  string // the host's interface, for NICTap
}

// NICKind is what is at the host's end of a NIC. A driver offers the kinds in Info.Features.
type NICKind string

// The kinds of NIC.
const (
	NICUser NICKind = "user" // the VMM's own user-mode stack
	NICTap  NICKind = "tap"
	NICWire NICKind = "wire" // a process of the host: see Wired; one in a machine at most
)

// The addresses that a guest finds on a NICUser, whatever the VMM. The agent has no DHCP client.
const (
	UserNet     = "10.0.2.0/24"
	UserAddress = "10.0.2.15/24" // the guest's own
	UserGateway = "10.0.2.2"
	UserDNS     = "10.0.2.3" // forwards to the host's resolver
)
