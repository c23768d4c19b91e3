package qemu

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/model"
	"banger/internal/vmm"
	"banger/internal/vmm/confine"
	"banger/internal/vmm/qemu/defect"
)

// hostFiles are what QEMU needs of every host: programs, libraries and firmware, and a few files of
// the kernel, from which libraries learn about the host.
var hostFiles = []string{
	"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store", "/etc/ld.so.cache", "/etc/ld.so.preload",
	"/dev/urandom", "/sys/devices/system/cpu", "/sys/devices/system/node",
}

// ownFiles are directories of a QEMU that is not below /usr, relative to the program.
var ownFiles = []string{"../share/qemu", "../share/seabios", "../lib", "../lib64", "../libexec"}

const resolvConf = "/etc/resolv.conf"

// Protection is what this host's QEMU gets for a machine that is restored from a file.
func (d *Driver) Protection(ctx context.Context) (model.Protection, error) {
	info, err := d.Info(ctx)
	if err != nil {
		return nil, err
	}
	if defect.WritesBase(info.Version) {
		return d.layers(writesBase), nil
	}
	return d.layers(""), nil
}

const writesBase = "QEMU before 8.2 opens the saved memory for writing"

// protection is what QEMU will be started with.
func (d *Driver) protection(h host, f *files) model.Protection {
	if !h.restored {
		return d.layers("")
	}
	switch memory := f.list[memoryFD]; {
	case isMemfd(memory): // it takes no rule of Landlock
		if !isSealed(memory) {
			return d.layers("the memory that the VM shares is not sealed")
		}
	case !h.readOnly:
		return d.layers(writesBase)
	}
	return d.layers("")
}

// layers returns the protection if memory is the reason why the saved memory is not protected.
func (d *Driver) layers(memory string) model.Protection {
	if d.cfg.Unconfined {
		return confine.Off("the configuration turns it off")
	}
	layer := model.Layer{Name: model.LayerMemory, On: memory == "", Note: memory}
	return append(slices.Clone(confine.Available()), layer)
}

// confined calls start in a thread that leaves to QEMU, the program at path, only what the machine
// needs.
func (d *Driver) confined(m vmm.Machine, h host, f *files, path string, start func() error) error {
	if d.cfg.Unconfined {
		return start()
	}
	policy := policy(m, h, path)
	switch {
	case h.restored && h.readOnly:
		policy.Reopen = f.list[memoryFD : memoryFD+1]
	case h.restored:
		policy.ReopenWritable = f.list[memoryFD : memoryFD+1]
	}
	return policy.Run(start)
}

// policy is what QEMU, the program at path, may use for a machine.
func policy(m vmm.Machine, h host, path string) confine.Policy {
	p := confine.Policy{Read: append([]string{path}, hostFiles...), Write: []string{os.DevNull}, Dir: m.RunDir}
	// A home may lie below another user's directory.
	p.Capabilities = []int{unix.CAP_DAC_READ_SEARCH}
	for _, dir := range ownFiles {
		p.Read = append(p.Read, filepath.Join(filepath.Dir(path), dir))
	}
	if !h.restored {
		p.Read = append(append(p.Read, m.Kernel), m.Initramfs...)
	}
	if h.accel == KVM {
		p.Write = append(p.Write, "/dev/kvm")
	}
	for _, d := range m.Drives {
		if d.ReadOnly {
			p.Read = append(p.Read, d.Path)
		} else {
			p.Write = append(p.Write, d.Path)
		}
	}
	for _, n := range m.NICs {
		switch n.Kind {
		case vmm.NICUser:
			p.Network = confine.Internet
			p.Read = append(p.Read, nameServers(os.Geteuid())...)
		case vmm.NICTap:
			p.Write = append(p.Write, "/dev/net/tun")
			p.Capabilities = append(p.Capabilities, unix.CAP_NET_ADMIN)
		}
	}
	return p
}

// nameServers returns from where QEMU's user network may read the host's name servers. Programs
// replace that file while machines run, so its directory should be readable. Of /etc, root may not
// read all: root's machines keep the name servers of their start. /run itself holds private files.
func nameServers(uid int) []string {
	file, err := filepath.EvalSymlinks(resolvConf)
	if err != nil {
		return nil
	}
	dir := filepath.Dir(file)
	shared := strings.HasPrefix(dir, "/run/") && !strings.HasPrefix(dir, "/run/user")
	if shared || dir == filepath.Dir(resolvConf) && uid != 0 {
		return []string{dir}
	}
	return []string{file}
}
