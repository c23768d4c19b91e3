package qemu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vmm"
)

const (
	maxSocket  = 107  // sizeof(sockaddr_un.sun_path) less the final NUL (unix(7))
	maxCmdline = 2047 // COMMAND_LINE_SIZE of x86 less the final NUL
	maxIfname  = 15   // IFNAMSIZ less the final NUL
	microvmBus = 8    // virtio-mmio slots that every microvm machine has
)

var (
	idPattern     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)
	serialPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,19}$`) // 20: vmm.Drive
)

// check refuses a machine that cannot start, before anything is made. Its errors are fault.Invalid, or say which file cannot be opened.
func check(m vmm.Machine, h host) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fault.New(fault.Invalid, format, args...)) }
	if !idPattern.MatchString(m.ID) {
		bad("machine id %q is not made of letters, digits, - and _", m.ID)
	}
	if longest := filepath.Join(m.RunDir, consoleSocket); !filepath.IsAbs(m.RunDir) || len(longest) > maxSocket {
		bad("run directory %q: a socket in it would not have an absolute name of at most %d bytes", m.RunDir, maxSocket)
	}
	if m.VCPUs < 1 || m.VCPUs > model.MaxVCPUs {
		bad("%d vcpus are not between 1 and %d", m.VCPUs, model.MaxVCPUs)
	}
	if m.Memory < model.MiB || m.Memory%model.MiB != 0 || m.Memory > model.MaxMemory {
		bad("memory: %d bytes are not a whole number of MiB up to %v", m.Memory, model.MaxMemory)
	}
	if len(m.Initramfs) == 0 && !h.restored {
		bad("machine %s has no initramfs", m.ID)
	}
	if line := cmdline(m, h); len(line) > maxCmdline || strings.ContainsAny(line, "\x00\n") {
		bad("the kernel's arguments are not one line of at most %d bytes", maxCmdline)
	}
	errs = append(errs, checkDevices(m), checkFiles(m, h))
	return errors.Join(errs...)
}

func checkDevices(m vmm.Machine) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fault.New(fault.Invalid, format, args...)) }
	if n := len(m.Drives) + len(m.NICs) + 2; n > microvmBus { // the agent's port and the random generator
		bad("%d devices are more than the machine's %d slots", n, microvmBus)
	}
	seen := map[string]bool{}
	for _, d := range m.Drives {
		if !serialPattern.MatchString(d.Serial) || seen[d.Serial] {
			bad("drive serial %q is not up to 20 letters, digits, - and _, or there twice", d.Serial)
		}
		seen[d.Serial] = true
	}
	for _, n := range m.NICs {
		if n.Kind != vmm.NICUser && n.Kind != vmm.NICTap {
			bad("network card of kind %q", n.Kind)
		}
		if n.Kind == vmm.NICTap && (n.Tap == "" || len(n.Tap) > maxIfname) {
			bad("tap %q is not an interface's name", n.Tap)
		}
		if n.MAC != nil && len(n.MAC) != 6 {
			bad("hardware address %v does not have 6 bytes", n.MAC)
		}
	}
	return errors.Join(errs...)
}

// checkFiles opens what QEMU will open, because our error for it is better than QEMU's.
func checkFiles(m vmm.Machine, h host) error {
	var errs []error
	if !h.restored {
		errs = append(errs, checkFile("kernel", m.Kernel, os.O_RDONLY))
		for _, path := range m.Initramfs {
			errs = append(errs, checkFile("initramfs", path, os.O_RDONLY))
		}
	}
	for _, d := range m.Drives {
		flag := os.O_RDWR
		if d.ReadOnly {
			flag = os.O_RDONLY
		}
		errs = append(errs, checkFile("drive "+d.Serial, d.Path, flag))
	}
	return errors.Join(errs...)
}

func checkFile(what, path string, flag int) error {
	if !filepath.IsAbs(path) {
		return fault.New(fault.Invalid, "%s: %q is not an absolute path", what, path)
	}
	f, err := os.OpenFile(path, flag|unix.O_NONBLOCK, 0) // a FIFO there must not keep us waiting
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fault.New(fault.NotFound, "opening the %s: %w", what, err)
	case errors.Is(err, fs.ErrPermission):
		return fault.New(fault.Denied, "opening the %s: %w", what, err)
	case err != nil:
		return fmt.Errorf("opening the %s: %w", what, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("opening the %s: %w", what, err)
	}
	if !info.Mode().IsRegular() && info.Mode().Type() != fs.ModeDevice {
		return fault.New(fault.Invalid, "%s: %s is neither a file nor a block device", what, path)
	}
	return nil
}
