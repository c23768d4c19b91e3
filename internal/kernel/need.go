package kernel

import (
	"bufio"
	"bytes"
	"fmt"
	"slices"
	"strings"

	"banger/internal/fault"
)

// driver is a part of the kernel that is builtin or a module.
type driver struct {
	module string
	option string // its option without CONFIG_
}

// need is something that guests use. The first of anyOf that the kernel has serves it.
type need struct {
	anyOf []driver
	// before are modules that it uses without a declared dependency. They are loaded first if they
	// exist.
	before []string
	vital  bool // no guest works without it
}

// needs are what a guest uses, in load order. The agent's channel comes first, so that the host
// reaches the agent early. Each module costs 3 to 60 ms of a boot in emulation, so rare needs are
// left out.
var needs = []need{
	{vital: true, anyOf: []driver{{"unix", "UNIX"}}},
	{vital: true, anyOf: []driver{{"virtio_mmio", "VIRTIO_MMIO"}, {"virtio_pci", "VIRTIO_PCI"}}},
	{vital: true, anyOf: []driver{{"virtio_console", "VIRTIO_CONSOLE"}}},
	{vital: true, anyOf: []driver{{"virtio_blk", "VIRTIO_BLK"}}},
	{vital: true, anyOf: []driver{{"virtio_net", "VIRTIO_NET"}}},
	// ext4 asks the crypto API for "crc32c".
	{vital: true, anyOf: []driver{{"ext4", "EXT4_FS"}}, before: []string{"crc32c_generic"}},
	{vital: true, anyOf: []driver{{"overlay", "OVERLAY_FS"}}},
	// The agent reads the power button's event from it.
	{anyOf: []driver{{"evdev", "INPUT_EVDEV"}}},
	{anyOf: []driver{{"button", "ACPI_BUTTON"}}}, // the power button
	{anyOf: []driver{{"af_packet", "PACKET"}}},   // DHCP clients, tcpdump
	// It is the agent's channel on Firecracker.
	{anyOf: []driver{{"vmw_vsock_virtio_transport", "VIRTIO_VSOCKETS"}}},
}

// options are what a guest needs and what cannot be a module. One option of each row suffices.
var options = [][]string{
	{"BLK_DEV_INITRD"}, {"DEVTMPFS"}, {"TMPFS"}, {"PROC_FS"}, {"SYSFS"}, {"BINFMT_ELF"}, {"FUTEX"}, {"EPOLL"}, {"EVENTFD"},
	{"NET"}, {"INET"}, {"SERIAL_8250_CONSOLE"}, {"UNIX98_PTYS"},
	{"ACPI", "VIRTIO_MMIO_CMDLINE_DEVICES"}, // the kernel finds its virtio devices by it
}

// parseConfig reads a kernel's .config into a map from option (without CONFIG_) to value. Unset
// options are not in the map.
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

// facts are what is known about a kernel. A nil config or tree is unknown.
type facts struct {
	version string
	pvh     bool
	config  map[string]string
	tree    *tree
}

// presence is where a driver is.
type presence int

// In order from worst to best.
const (
	absent      presence = iota
	unreachable          // a module that is not in the tree
	unknown
	builtin
	loadable
)

// find returns where a driver is. The tree knows best what exists; the configuration also knows
// what does not.
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
	// unix is no module since 6.4, and then it is not in the list.
	case k.tree != nil && k.tree.builtin != nil && d.module != "unix":
		return absent
	}
	return unknown
}

// verdict is the result of judge.
type verdict struct {
	load     []string // modules to load, without their dependencies
	warnings []string
}

// judge decides whether guests can run on the kernel. Its error is fault.Unsupported and lists
// everything that is missing.
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
			lacks = append(lacks, d.module+" (a module that was not found)")
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
		v.warnings = append(v.warnings, fmt.Sprintf("neither its configuration nor its modules show whether it has %s",
			strings.Join(unsure, ", ")))
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

// first returns the first driver that the kernel has, or otherwise the one most likely to exist.
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
		return err.WithHint("If they are modules of this kernel, give their directory with --modules.")
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
