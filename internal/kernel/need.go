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
	option string   // its configuration option, without CONFIG_
	before []string // modules that it needs and does not name as dependencies; loaded first where they exist
	vital  bool     // a guest does not work without it
	anyOf  string   // at least one of the drivers with the same word is vital
}

// drivers are what a guest of banger's uses, in load order. Everything that is here and a module costs a few milliseconds of every boot,
// so what an image may want later is not.
var drivers = []driver{
	{module: "unix", option: "UNIX", vital: true},
	{module: "virtio_mmio", option: "VIRTIO_MMIO", anyOf: "virtio_mmio or virtio_pci"},
	{module: "virtio_pci", option: "VIRTIO_PCI", anyOf: "virtio_mmio or virtio_pci"},
	{module: "virtio_blk", option: "VIRTIO_BLK", vital: true},
	{module: "virtio_console", option: "VIRTIO_CONSOLE", vital: true},
	{module: "virtio_net", option: "VIRTIO_NET", vital: true},
	{module: "ext4", option: "EXT4_FS", vital: true, before: []string{"crc32c_generic"}}, // it asks the crypto API by name for crc32c
	{module: "overlay", option: "OVERLAY_FS", vital: true},
	{module: "evdev", option: "INPUT_EVDEV"},                          // the power button's event, for the agent to read
	{module: "button", option: "ACPI_BUTTON"},                         // the power button
	{module: "vmw_vsock_virtio_transport", option: "VIRTIO_VSOCKETS"}, // the agent's channel on Firecracker
	{module: "virtio_rng", option: "HW_RANDOM_VIRTIO"},                // entropy from the host before the agent brings some
	{module: "af_packet", option: "PACKET"},                           // DHCP clients, tcpdump
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

// presence is where a driver is.
type presence int

const (
	unknown presence = iota
	absent
	builtin
	loadable
	unreachable // a module, and the module is not at hand
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
	groups := map[string]bool{} // whether one of the group is there
	for _, d := range drivers {
		switch k.find(d) {
		case loadable:
			v.load = append(append(v.load, k.present(d.before)...), d.module)
			groups[d.anyOf] = true
		case builtin:
			groups[d.anyOf] = true
		case unknown:
			groups[d.anyOf] = true
			if d.vital || d.anyOf != "" {
				unsure = append(unsure, d.module)
			}
		case absent:
			if d.vital {
				lacks = append(lacks, d.module)
			}
			groups[d.anyOf] = groups[d.anyOf]
		case unreachable:
			if d.vital {
				lacks = append(lacks, d.module+" (a module, and it was not found)")
			}
			groups[d.anyOf] = groups[d.anyOf]
		}
	}
	for _, d := range drivers {
		if d.anyOf != "" && !groups[d.anyOf] && !slices.Contains(lacks, d.anyOf) {
			lacks = append(lacks, d.anyOf)
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
