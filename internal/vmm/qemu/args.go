package qemu

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"banger/internal/guest/proto"
	"banger/internal/vmm"
	"banger/internal/vmm/confine"
	"banger/internal/vmm/process"
	"banger/internal/vmm/qemu/defect"
)

// host is what the command line depends on, in addition to the machine.
type host struct {
	accel  Accel
	tscKHz uint64 // for emulation
	initrd string // path of the one initramfs

	restored bool // QEMU inherits the memory and the state of the devices
	readOnly bool // QEMU opens the memory for reading only

	wire int // QEMU's descriptor of the NICWire

	policy *confine.Policy // what QEMU may use of the host's files; nil: all that the user may
}

// The descriptors that QEMU inherits after standard error.
const (
	lockFD    = process.LockFD
	qmpFD     = lockFD + 1
	agentFD   = lockFD + 2
	consoleFD = lockFD + 3
	initrdFD  = lockFD + 4 // only if the initramfs had to be joined

	// Of a restored machine, which needs no initramfs:
	memoryFD = lockFD + 4
	deviceFD = lockFD + 5
)

// The kernel's arguments. A reboot is a triple fault, and a panic reboots at once. With -no-reboot
// both end QEMU.
var (
	kernelArgs = []string{"console=ttyS0", "8250.nr_uarts=1", "reboot=t", "panic=-1"}

	// emulationArgs save half a second of a boot under TCG. They leave out self tests and keys
	// that need public-key arithmetic. They make the kernel trust the host's counter, timer and
	// random generator.
	emulationArgs = []string{
		"tsc=reliable", "no_timer_check", "random.trust_cpu=on", "rcupdate.rcu_expedited=1", "cryptomgr.notests",
		"initcall_blacklist=crypto_kdf108_init,init_encrypted,load_system_certificate_list",
	}
)

// args builds QEMU's command line. It is a pure function: the same machine and host give the same
// arguments.
func args(m vmm.Machine, h host) []string {
	name := "banger-" + m.ID
	list := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-name", name + ",process=" + name, // Linux cuts a process name to 15 characters
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
		"-chardev", socketOn("qmp", qmpFD), "-mon", "chardev=qmp,mode=control",
		"-chardev", socketOn("console", consoleFD), "-serial", "chardev:console",
		"-chardev", socketOn("agent", agentFD), "-device", "virtio-serial-device",
		"-device", "virtserialport,chardev=agent,name="+proto.PortName,
		"-object", "rng-builtin,id=rng", "-device", "virtio-rng-device,rng=rng",
	)
	for _, d := range m.Drives {
		list = append(list, driveArgs(d)...)
	}
	for i, n := range m.NICs {
		list = append(list, nicArgs(i, n, h)...)
	}
	return list
}

func machineType(h host) string {
	const microvm = "microvm,acpi=on,pcie=off,rtc=on,pit=off,pic=off,dump-guest-core=off,memory-backend=mem"
	if h.restored {
		return microvm + ",suppress-vmdesc=on" // a state without RAM has no description at its end
	}
	return microvm
}

// contentArgs describes what the memory holds at first. A restored machine maps its memory file
// privately. Older versions of QEMU open the file for writing (see package defect), but no device
// of this machine writes to it. The machine runs as soon as its state is loaded.
func contentArgs(m vmm.Machine, h host, mib string) []string {
	if h.restored {
		share := ",share=off"
		if h.readOnly {
			share += ",readonly=on,rom=off"
		}
		return []string{
			"-object", "memory-backend-file,id=mem,size=" + mib + ",mem-path=" + inherited(memoryFD) + share,
			"-global", "migration.send-configuration=off", "-incoming", "fd:" + strconv.Itoa(deviceFD),
		}
	}
	return []string{
		"-object", "memory-backend-ram,id=mem,size=" + mib,
		"-kernel", m.Kernel, "-initrd", h.initrd, "-append", cmdline(m, h),
	}
}

// inherited is the path by which QEMU opens a file whose descriptor it has.
func inherited(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// cmdline is the kernel's command line.
func cmdline(m vmm.Machine, h host) string {
	list := slices.Clone(kernelArgs)
	if h.accel == TCG {
		list = append(list, defect.EarlyTSC(h.tscKHz))
		list = append(list, emulationArgs...)
	}
	return strings.Join(append(list, m.Cmdline...), " ")
}

func socketOn(id string, fd int) string {
	return fmt.Sprintf("socket,id=%s,fd=%d,server=on,wait=off", id, fd)
}

// writeError is what QEMU does if a write to a drive fails: it halts the machine if the host's disk
// is full, and reports other errors to the guest.
const writeError = ",werror=enospc"

// nodeName is the name of a drive's block node.
func nodeName(drive string) string { return "disk-" + drive }

// driveArgs describes a drive. Writes go to the page cache, a guest's flush goes to the disk. QEMU
// locks the file: many readers or one writer. If the host's disk is full, QEMU halts the machine:
// see vmm.HaltedFull.
func driveArgs(d vmm.Drive) []string {
	node := "driver=raw,node-name=" + nodeName(d.Name)
	if d.ReadOnly {
		node += ",read-only=on"
	} else {
		node += ",discard=unmap,detect-zeroes=unmap" // what a guest discards is a hole
	}
	node += ",file.driver=file,file." + defect.KeepCache + ",file.filename=" + escape(d.Path)
	if !d.ReadOnly {
		node += ",file.discard=unmap"
	}
	device := "virtio-blk-device,drive=" + nodeName(d.Name) + ",serial=" + d.Name
	if !d.ReadOnly {
		device += writeError
	}
	return []string{"-blockdev", node, "-device", device}
}

// nicArgs describes a network card. By its gateway address a guest of the user network reaches the
// host's loopback; only restrict=on prevents this, but it prevents everything. guest_announce is
// for machines that moved to another host, and a restored one has not.
func nicArgs(i int, n vmm.NIC, h host) []string {
	id := "net" + strconv.Itoa(i)
	var netdev string
	switch n.Kind {
	case vmm.NICTap:
		netdev = "tap,id=" + id + ",ifname=" + escape(n.Tap) + ",script=no,downscript=no"
	case vmm.NICUser:
		netdev = "user,id=" + id + ",ipv6=off,net=" + vmm.UserNet + ",host=" + vmm.UserGateway + ",dns=" + vmm.UserDNS
	case vmm.NICWire:
		netdev = "dgram,id=" + id + ",local.type=fd,local.str=" + strconv.Itoa(h.wire)
	}
	device := "virtio-net-device,netdev=" + id + ",guest_announce=off"
	if n.MAC != nil {
		device += ",mac=" + n.MAC.String()
	}
	return []string{"-netdev", netdev, "-device", device}
}

// escape makes a value safe in the key=value lists of QEMU, which write a comma twice.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }
