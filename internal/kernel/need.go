package kernel

import (
	"bufio"
	"bytes"
	"fmt"
	"slices"
	"strings"

	"banger/internal/fault"
)

// driver is a part of the kernel that may be built in or a module.
type driver struct {
	module string
	option string // its configuration option, without CONFIG_
}

// need is something that guests use, served by the first of the drivers that the kernel has.
type need struct {
	anyOf  []driver
	before []string // modules that it needs without naming them as dependencies; loaded first where they exist
	vital  bool     // a guest does not work without it
}

// needs are what a guest of banger's uses, in load order: first what the agent's channel is made of, so that the agent can be
// reached while it loads the rest. Each module costs 3 to 60 ms of every boot in emulation, so what only some images want is not here.
var needs = []need{
	{vital: true, anyOf: []driver{{"unix", "UNIX"}}},
	{vital: true, anyOf: []driver{{"virtio_mmio", "VIRTIO_MMIO"}, {"virtio_pci", "VIRTIO_PCI"}}},
	{vital: true, anyOf: []driver{{"virtio_console", "VIRTIO_CONSOLE"}}},
	{vital: true, anyOf: []driver{{"virtio_blk", "VIRTIO_BLK"}}},
	{vital: true, anyOf: []driver{{"virtio_net", "VIRTIO_NET"}}},
	{vital: true, anyOf: []driver{{"ext4", "EXT4_FS"}}, before: []string{"crc32c_generic"}}, // it asks the crypto API for "crc32c"
	{vital: true, anyOf: []driver{{"overlay", "OVERLAY_FS"}}},
	{anyOf: []driver{{"evdev", "INPUT_EVDEV"}}},                          // the power button's event, for the agent to read
	{anyOf: []driver{{"button", "ACPI_BUTTON"}}},                         // the power button
	{anyOf: []driver{{"af_packet", "PACKET"}}},                           // DHCP clients, tcpdump
	{anyOf: []driver{{"vmw_vsock_virtio_transport", "VIRTIO_VSOCKETS"}}}, // the agent's channel on Firecracker
}

// options are what a guest needs that cannot be a module, each satisfied by any of the options named.
var options = [][]string{
	{"BLK_DEV_INITRD"}, {"DEVTMPFS"}, {"TMPFS"}, {"PROC_FS"}, {"SYSFS"}, {"BINFMT_ELF"}, {"FUTEX"}, {"EPOLL"}, {"EVENTFD"},
	{"NET"}, {"INET"}, {"SERIAL_8250_CONSOLE"}, {"UNIX98_PTYS"},
	{"ACPI", "VIRTIO_MMIO_CMDLINE_DEVICES"}, // how the kernel finds its virtio devices
}

// parseConfig reads a kernel's .config into option (without CONFIG_) and value. What is not set is not in it.
func parseConfig(config []byte) map[string]string {
	set := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(config))
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "CONFIG_"); ok {
			if name, value, ok := strings.Cut(rest, "="); ok {
				set[name] = value
			}
		}
	}
	return set
}

// facts is what is known of a kernel when it is decided whether it will do. A nil config or tree is not known.
type facts struct {
	version string
	pvh     bool
	config  map[string]string
	tree    *tree
}

// presence tells where a driver is.
type presence int

// From hopeless to good.
const (
	absent      presence = iota
	unreachable          // a module, and the module is not at hand
	unknown
	builtin
	loadable
)

// find tells where the driver is. The module tree knows best what there is; the configuration knows also what there is not.
func (k facts) find(d driver) presence {
	if k.tree != nil {
		if k.tree.builtin[d.module] {
			return builtin
		}
		if _, ok := k.tree.modules[d.module]; ok {
			return loadable
		}
	}
	switch {
	case k.config != nil && k.config[d.option] == "y":
		return builtin
	case k.config != nil && k.config[d.option] == "m":
		return unreachable
	case k.config != nil:
		return absent
	case k.tree != nil && k.tree.builtin != nil && d.module != "unix": // not a module since 6.4, and then not listed
		return absent
	}
	return unknown
}

// verdict is what a kernel's guests get.
type verdict struct {
	load     []string // modules to load, in an order that only lacks their dependencies
	warnings []string
}

// judge decides whether guests can run on the kernel. The error is fault.Unsupported and lists everything that is missing.
func (k facts) judge() (verdict, error) {
	var v verdict
	var lacks, unsure []string
	for _, n := range needs {
		d, where := k.first(n.anyOf)
		switch {
		case where == loadable:
			v.load = append(append(v.load, k.present(n.before)...), d.module)
		case where == builtin || !n.vital:
		case where == unknown:
			unsure = append(unsure, n.String())
		case where == unreachable:
			lacks = append(lacks, d.module+" (a module, and it was not found)")
		default:
			lacks = append(lacks, n.String())
		}
	}
	lacks = append(lacks, k.missingOptions()...)
	if !k.pvh {
		lacks = append(lacks, "a PVH entry point (CONFIG_PVH)")
	}
	if len(lacks) > 0 {
		return verdict{}, k.refuse(lacks)
	}
	if len(unsure) > 0 {
		v.warnings = append(v.warnings, fmt.Sprintf("neither a configuration nor modules tell whether it has %s", strings.Join(unsure, ", ")))
	}
	return v, nil
}

func (n need) String() string {
	names := make([]string, len(n.anyOf))
	for i, d := range n.anyOf {
		names[i] = d.module
	}
	return strings.Join(names, " or ")
}

// first returns the best of the drivers: the first one that is there, else the one of which there is most hope.
func (k facts) first(drivers []driver) (best driver, where presence) {
	for _, d := range drivers {
		switch p := k.find(d); {
		case p >= builtin:
			return d, p
		case p > where || best == driver{}:
			best, where = d, p
		}
	}
	return best, where
}

func (k facts) refuse(lacks []string) error {
	err := fault.New(fault.Unsupported, "kernel %s lacks what a guest needs: %s", k.version, strings.Join(lacks, ", "))
	if k.tree == nil {
		return err.WithHint("If they are modules of this kernel, give their folder with --modules.")
	}
	return err.WithHint("Use a kernel that is built with them; `banger kernel pull debian` gets one.")
}

func (k facts) missingOptions() []string {
	if k.config == nil {
		return nil
	}
	var missing []string
	for _, any := range options {
		if !slices.ContainsFunc(any, func(o string) bool { return k.config[o] == "y" }) {
			missing = append(missing, "CONFIG_"+strings.Join(any, " or CONFIG_"))
		}
	}
	return missing
}

// present returns those of the modules that are in the tree.
func (k facts) present(modules []string) []string {
	var found []string
	for _, m := range modules {
		if _, ok := k.tree.modules[m]; ok {
			found = append(found, m)
		}
	}
	return found
}
