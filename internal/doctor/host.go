package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/home"
	"banger/internal/limit"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/regular"
	"banger/internal/vmdir"
	"banger/internal/vmm"
	"banger/internal/vmm/confine"
	"banger/internal/vmm/qemu"
)

// Host returns the Env of this host. It uses the driver's own probe for KVM, because doctor's
// verdict must agree with the driver's choice.
func Host(layout paths.Layout) Env {
	uid := os.Getuid()
	name := os.Getenv("USER")
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		name = u.Username
	}
	return Env{
		Layout: layout, UID: uid, User: name, Arch: runtime.GOARCH, TmpDir: os.TempDir(),
		Now: time.Now, ReadFile: readSmall, Stat: stat, Lost: lost(layout), Machines: func() ([]vmdir.Machine, error) { return vmdir.Machines(layout) }, Tool: findTool, Output: output, FileSystem: fileSystem,
		Owners: func() error { return home.CheckOwners(layout) },
		Limits: func() (limit.Set, error) { return limit.Of(0) }, ClockSync: clockSync, KVM: qemu.ProbeKVM, Protection: protection, Recommendations: recommendations,
	}
}

func lost(layout paths.Layout) func() ([]string, error) {
	return func() ([]string, error) {
		all, err := vmdir.Lost(layout)
		var dirs []string
		for _, l := range all {
			dirs = append(dirs, l.Dir)
		}
		return dirs, err
	}
}

// adminDirs hold administrators' tools. On Debian they are missing from a user's PATH, although the
// user may run the tools.
var adminDirs = []string{"/usr/local/sbin", "/usr/sbin", "/sbin"}

// findTool looks for a program where banger does: in PATH, then in adminDirs.
func findTool(name string) (string, error) {
	path, err := exec.LookPath(name)
	for _, dir := range adminDirs {
		if err == nil {
			break
		}
		path, err = exec.LookPath(filepath.Join(dir, name))
	}
	return path, err
}

// readSmall reads a file of the kernel or of /etc. The largest is /proc/cpuinfo of a host with
// hundreds of CPUs.
func readSmall(name string) ([]byte, error) {
	f, err := regular.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 1<<20))
}

// recommendations asks the driver that would run VMs on this host.
func recommendations(ctx context.Context, program string) ([]vmm.Recommendation, error) {
	info, err := qemu.New(qemu.Config{Binary: program}).Info(ctx)
	return info.Recommendations, err
}

// protection asks the driver. Without QEMU it is what any program gets.
func protection(ctx context.Context, program string) model.Protection {
	list, err := qemu.New(qemu.Config{Binary: program}).Protection(ctx)
	if err != nil {
		return confine.Available()
	}
	return list
}

func stat(name string) (Entry, error) {
	info, err := os.Stat(name)
	if err != nil {
		return Entry{}, err
	}
	return Entry{Dir: info.IsDir(), Writable: unix.Access(name, unix.W_OK) == nil}, nil
}

func output(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return out, err
}

// magics maps the numbers that statfs(2) returns to file systems (linux/magic.h and the kernel's
// sources).
var magics = map[int64]FileSystem{
	0xef53:     {Type: "ext4", Reflink: No}, // ext2 and ext3 have the same number
	0x01021994: {Type: "tmpfs", Reflink: No},
	0x58465342: {Type: "xfs", Reflink: Unknown},
	0x9123683e: {Type: "btrfs", Reflink: Yes},
	0xca451a4e: {Type: "bcachefs", Reflink: Yes},
	0x2fc12fc1: {Type: "zfs", Reflink: Unknown},
	0xf2f52010: {Type: "f2fs", Reflink: No},
	0x794c7630: {Type: "overlay", Reflink: Unknown},
	0x6969:     {Type: "nfs", Reflink: Unknown},
	0xff534d42: {Type: "cifs", Reflink: Unknown},
	0xfe534d42: {Type: "smb2", Reflink: Unknown},
	0x517b:     {Type: "smb", Reflink: No},
	0x01021997: {Type: "9p", Reflink: No},
	0x5346414f: {Type: "afs", Reflink: No},
	0x00c36400: {Type: "ceph", Reflink: No},
	0x0bd00bd0: {Type: "lustre", Reflink: No},
	0x73757245: {Type: "coda", Reflink: No},
	0x564c:     {Type: "ncp", Reflink: No},
	0x65735546: {Type: "fuse", Reflink: Unknown},
}

// fileSystem describes the file system of dir, or of its nearest parent that exists.
func fileSystem(dir string) (FileSystem, error) {
	for at := dir; ; at = filepath.Dir(at) {
		var st unix.Statfs_t
		err := unix.Statfs(at, &st)
		if errors.Is(err, fs.ErrNotExist) && at != filepath.Dir(at) {
			continue
		}
		if err != nil {
			return FileSystem{}, fmt.Errorf("reading the file system of %s: %w", at, err)
		}
		magic := int64(uint32(st.Type)) // the field's sign differs between architectures
		found, ok := magics[magic]
		if !ok {
			found = FileSystem{Type: fmt.Sprintf("0x%x", magic), Reflink: Unknown}
		}
		found.Free, found.Size = st.Bavail*uint64(st.Bsize), st.Blocks*uint64(st.Bsize)
		found.NoExec, found.NoDev = st.Flags&unix.ST_NOEXEC != 0, st.Flags&unix.ST_NODEV != 0
		return found, nil
	}
}

// clockSync asks the kernel and changes nothing (adjtimex(2): modes 0 needs no privilege).
func clockSync() (synced, known bool) {
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil {
		return false, false
	}
	return t.Status&unix.STA_UNSYNC == 0, true
}
