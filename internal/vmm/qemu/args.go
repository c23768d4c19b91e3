package qemu

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"banger/internal/guest/proto"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// host is what the command line depends on besides the machine.
type host struct {
	accel  Accel
	tscKHz uint64 // for emulation
	initrd string // path of the one initramfs

	restored bool // its memory and the state of its devices are inherited
}

// The descriptors that QEMU inherits after standard error.
const (
	lockFD    = process.LockFD
	qmpFD     = lockFD + 1
	agentFD   = lockFD + 2
	consoleFD = lockFD + 3
	initrdFD  = lockFD + 4 // only when the initramfs had to be joined

	// Of a restored machine, which needs no initramfs.
	memoryFD = lockFD + 4
	deviceFD = lockFD + 5
)

// The kernel's arguments. A machine without a reset vector to its liking reboots by a triple fault, and panics reboot at once: with
// -no-reboot both end QEMU.
var (
	kernelArgs = []string{"console=ttyS0", "8250.nr_uarts=1", "reboot=t", "panic=-1"}

	// emulationArgs are for guests under TCG only, where they save half a second: no self tests and keys that cost emulated
	// public-key arithmetic, and trust in a counter, a timer and a random generator that are the host's.
	emulationArgs = []string{
		"tsc=reliable", "no_timer_check", "random.trust_cpu=on", "rcupdate.rcu_expedited=1", "cryptomgr.notests",
		"initcall_blacklist=crypto_kdf108_init,init_encrypted,load_system_certificate_list",
	}
)

// args builds QEMU's command line. It is a pure function: the same machine and host give the same arguments.
func args(m vmm.Machine, h host) []string {
	name := "banger-" + m.ID
	list := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-name", name + ",process=" + name, // the kernel cuts the process's name to 15 characters
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-machine", machineType(h),
	}
	if h.accel == KVM {
		list = append(list, "-accel", "kvm", "-cpu", "host")
	} else {
		list = append(list, "-accel", "tcg,thread=multi", "-cpu", "max")
	}
	mib := strconv.FormatInt(int64(m.Memory>>20), 10) + "M"
	list = append(list,
		"-smp", strconv.Itoa(m.VCPUs), "-m", mib)
	list = append(list, contentArgs(m, h, mib)...)
	list = append(list,
		"-chardev", socket("qmp", qmpFD), "-mon", "chardev=qmp,mode=control",
		"-chardev", socket("console", consoleFD), "-serial", "chardev:console",
		"-chardev", socket("agent", agentFD), "-device", "virtio-serial-device",
		"-device", "virtserialport,chardev=agent,name="+proto.PortName,
		"-object", "rng-builtin,id=rng", "-device", "virtio-rng-device,rng=rng",
	)
	for _, d := range m.Drives {
		list = append(list, driveArgs(d)...)
	}
	for i, n := range m.NICs {
		list = append(list, nicArgs(i, n)...)
	}
	return list
}

func machineType(h host) string {
	const microvm = "microvm,acpi=on,pcie=off,rtc=on,pit=off,pic=off,dump-guest-core=off,memory-backend=mem"
	if h.restored {
		return microvm + ",suppress-vmdesc=on" // a state that was saved without RAM has no description of itself at its end
	}
	return microvm
}

// contentArgs says what is in the memory at first. A restored machine maps its base privately: QEMU opens the file to write, but nothing of
// this machine makes it do so. (What would is a balloon: QEMU 7.2 punches holes into the file also of a private mapping.) It goes on as soon as
// the state is loaded. The state has no configuration section, either.
func contentArgs(m vmm.Machine, h host, mib string) []string {
	if h.restored {
		return []string{
			"-object", "memory-backend-file,id=mem,size=" + mib + ",mem-path=" + inherited(memoryFD) + ",share=off",
			"-global", "migration.send-configuration=off", "-incoming", "fd:" + strconv.Itoa(deviceFD),
		}
	}
	return []string{
		"-object", "memory-backend-ram,id=mem,size=" + mib,
		"-kernel", m.Kernel, "-initrd", h.initrd, "-append", cmdline(m, h),
	}
}

// inherited is the path by which QEMU finds a file of which it has the descriptor.
func inherited(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// cmdline is the kernel's command line.
func cmdline(m vmm.Machine, h host) string {
	list := slices.Clone(kernelArgs)
	if h.accel == TCG {
		list = append(list, "tsc_early_khz="+strconv.FormatUint(h.tscKHz, 10))
		list = append(list, emulationArgs...)
	}
	return strings.Join(append(list, m.Cmdline...), " ")
}

func socket(id string, fd int) string {
	return fmt.Sprintf("socket,id=%s,fd=%d,server=on,wait=off", id, fd)
}

// nodeName is the name of a drive's block node.
func nodeName(serial string) string { return "disk-" + serial }

// driveArgs describes a drive. Writes go to the page cache and a guest's flush to the disk itself: what a guest has synced
// survives the host's crash. QEMU locks the file (OFD locks): many readers or one writer. What the guest discards or
// zeroes becomes a hole. A full host disk is the guest's I/O error: the alternative, a machine that stops without a word, helps nobody.
// Restoring a machine leaves alone what the host has cached of a file (drop-cache): it has not come from another host, and other machines use the image.
func driveArgs(d vmm.Drive) []string {
	node := "driver=raw,node-name=" + nodeName(d.Serial)
	if d.ReadOnly {
		node += ",read-only=on"
	} else {
		node += ",discard=unmap,detect-zeroes=unmap"
	}
	node += ",file.driver=file,file.drop-cache=off,file.filename=" + escape(d.Path)
	if !d.ReadOnly {
		node += ",file.discard=unmap"
	}
	device := "virtio-blk-device,drive=" + nodeName(d.Serial) + ",serial=" + d.Serial
	if !d.ReadOnly {
		device += ",werror=report"
	}
	return []string{"-blockdev", node, "-device", device}
}

// nicArgs describes a network card. The user-mode stack has no switch in QEMU 7.2 that keeps a guest from the host's loopback services by
// way of its gateway address but restrict=on, which keeps it from everything. The guest of a restored machine is not told to announce itself
// (guest_announce): it has not moved.
func nicArgs(i int, n vmm.NIC) []string {
	id := "net" + strconv.Itoa(i)
	var netdev string
	switch n.Kind {
	case vmm.NICTap:
		netdev = "tap,id=" + id + ",ifname=" + escape(n.Tap) + ",script=no,downscript=no"
	case vmm.NICUser:
		netdev = "user,id=" + id + ",ipv6=off,net=" + vmm.UserNet + ",host=" + vmm.UserGateway + ",dns=" + vmm.UserDNS
	}
	device := "virtio-net-device,netdev=" + id + ",guest_announce=off"
	if n.MAC != nil {
		device += ",mac=" + n.MAC.String()
	}
	return []string{"-netdev", netdev, "-device", device}
}

// escape makes a value safe in QEMU's key=value lists, where a comma is written twice.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }
