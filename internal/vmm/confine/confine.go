// Package confine starts programs that are not trusted: VMMs, which run hostile guests. If a guest
// takes over its VMM, it can do only what this package allows.
//
// # Layers
//
// Each layer stands alone. If the kernel lacks one, the others still hold, and the Protection says
// what is missing.
//
//   - A filter of system calls (seccomp) refuses what no VMM needs: sockets of other families than
//     its network needs, ptrace and its like, signals, mounts, namespaces, modules, and changes of
//     files by name that Landlock does not see, such as chmod.
//   - Landlock refuses all files but those of the Policy. Newer kernels also refuse devices,
//     signals and abstract sockets.
//   - Root's capabilities are dropped, and no program gains privileges (no_new_privs).
//
// # A thread that confines itself
//
// All of this belongs to a thread and is inherited by its children. So a thread of this process
// confines itself, starts the program, and ends. No launcher runs in between: the program has the
// pid that the start returned, and it is a child of this process.
package confine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/model"
)

// Policy says what a program may use. Everything else is refused.
type Policy struct {
	// Read are files, and directories with all that is below them, that may be read and executed.
	// Those that do not exist are left out.
	Read []string
	// Write are files that may be read and written, and devices that may be controlled.
	Write []string
	// Reopen and ReopenWritable are inherited files that the program opens again by its
	// descriptors.
	Reopen, ReopenWritable []*os.File

	Network Network
	// Capabilities are kept if this process has them; package unix names them.
	Capabilities []int
	// Dir is the working directory, which the program cannot leave. If it is unset, or the kernel
	// refuses, the program has that of this process.
	Dir string
}

// Allows reports whether a program may use a file by its path.
func (p Policy) Allows(path string) bool {
	path = real(path)
	for _, allowed := range slices.Concat(p.Read, p.Write) {
		if rel, err := filepath.Rel(real(allowed), path); err == nil && filepath.IsLocal(rel) {
			return true
		}
	}
	return false
}

func real(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return filepath.Clean(path)
}

// Network is what a program may use of the host's network.
type Network int

// The networks.
const (
	None     Network = iota // no sockets but those that it inherits
	Internet                // IPv4 and IPv6
)

// Run calls start in a thread that the policy confines. What start does in other goroutines is not
// confined. If the thread does not get the protection of Available, start is not called.
func (p Policy) Run(start func() error) error {
	want := Available()
	files, err := newRuleset(p, landlockVersion())
	if err != nil {
		return fmt.Errorf("confining a program: %w", err)
	}
	defer files.close()
	onThread(func() {
		var got model.Protection
		if got, err = p.enter(files); err != nil {
			return
		}
		if !slices.Equal(got, want) {
			err = fault.New(fault.Internal, "confining a program: it would have %+v, not %+v", got, want)
			return
		}
		err = start()
	})
	return err
}

// onThread calls f in a thread that ends with f. The first thread of a process cannot end: proc(5)
// shows the process by it. So the first thread waits while another one does the work.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			onThread(f)
			return
		}
		f()
	}()
	<-done
}

// enter confines the calling thread.
func (p Policy) enter(files *ruleset) (model.Protection, error) {
	// A filter of a container may refuse unshare.
	if p.Dir != "" && unix.Unshare(unix.CLONE_FS) == nil {
		if err := unix.Chdir(p.Dir); err != nil {
			return nil, fmt.Errorf("entering the working directory %s: %w", p.Dir, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("giving up new privileges: %w", err)
	}
	if err := dropCapabilities(p.Capabilities); err != nil {
		return nil, err
	}
	list := files.enter()
	filter := model.Layer{Name: model.LayerCalls}
	if err := installFilter(p.Network); err != nil {
		filter.Note = err.Error()
	} else {
		filter.On = true
	}
	return append(list, filter), nil
}

// lastCapability is the highest number that the kernel may know; more are refused as invalid.
const lastCapability = 63

// dropCapabilities gives up all capabilities but keep.
func dropCapabilities(keep []int) error {
	kept := func(c int) bool { return slices.Contains(keep, c) }
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("reading the capabilities: %w", err)
	}
	// The bounding set first: this needs CAP_SETPCAP. Without it, a program gains nothing anyway.
	for c := 0; c <= lastCapability; c++ {
		if kept(c) {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
			break
		} else if err != nil {
			return fmt.Errorf("dropping capability %d: %w", c, err)
		}
	}
	for i := range data {
		var mask uint32
		for bit := range 32 {
			if kept(i*32 + bit) {
				mask |= 1 << bit
			}
		}
		data[i].Effective &= mask
		data[i].Permitted &= mask
		data[i].Inheritable = 0
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("dropping capabilities: %w", err)
	}
	return nil
}

// Available returns the protection that programs get on this host. It confines a thread to find
// out. It remembers the answer only if nothing failed: the next answer may be better otherwise.
func Available() model.Protection {
	found.Lock()
	defer found.Unlock()
	if found.protection != nil {
		return found.protection
	}
	protection, certain := find()
	if certain {
		found.protection = protection
	}
	return protection
}

var found struct {
	sync.Mutex
	protection model.Protection // nil: not known yet
}

// find confines a thread. The answer is certain if the kernel refused nothing that it has.
func find() (protection model.Protection, certain bool) {
	version := landlockVersion()
	files, err := newRuleset(Policy{}, version)
	if err == nil {
		defer files.close()
		onThread(func() { protection, err = Policy{}.enter(files) })
	}
	if err != nil {
		return Off(err.Error()), false
	}
	on := protection.On()
	certain = slices.Contains(on, model.LayerCalls) && (version == 0 || slices.Contains(on, model.LayerFiles))
	return protection, certain
}

// Off is the protection of a program that is not confined.
func Off(why string) model.Protection {
	return model.Protection{{Name: model.LayerFiles, Note: why}, {Name: model.LayerCalls, Note: why}}
}

// descriptor is the path of a file that this process has open.
func descriptor(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }
