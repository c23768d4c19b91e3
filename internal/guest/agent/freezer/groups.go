// Package freezer halts every process of the guest but the agent, and lets the processes continue.
// This happens around the moment at which a machine is saved, so that no process runs in a fork
// before the fork has its identity.
//
// Groups uses control groups (Documentation/admin-guide/cgroup-v2.rst, "cgroup.freeze"). The
// processes notice nothing, and no new process escapes. Signals uses SIGSTOP, for kernels without
// control groups.
package freezer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Our groups at the top of the hierarchy.
const (
	Agent = "banger-agent" // the agent beside the image's init
	// Commands holds what the agent starts for the host. Renewed groups have a number after this
	// name.
	Commands = "banger"
	// Init holds the image's init. systemd uses this group for itself (systemd.special(7)); other
	// inits need none.
	Init = "init.scope"
)

// Groups freezes all groups at the top of the cgroup2 hierarchy except the agent's. It uses a mount
// of its own without a path, so it does not depend on what the image mounts. Processes outside
// these groups are moved first.
type Groups struct {
	root tree
	// home is the agent's group. "" is the root of the hierarchy, which cannot be frozen either.
	home string
	own  func() (string, error) // this process's group

	mu       sync.Mutex
	commands *os.File        // of the group for commands
	name     string          // of that group
	made     int             // how many such groups were made
	frozen   map[string]bool // frozen groups; true: frozen by us
}

// Open mounts the hierarchy. The calling process stays in its root.
func Open() (*Groups, error) {
	fd, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("opening the control groups: %w", err)
	}
	defer unix.Close(fd)
	// The option belongs to the hierarchy, not to the mount. The mount at /sys/fs/cgroup has the
	// same.
	if err := unix.FsconfigSetFlag(fd, "nsdelegate"); err != nil {
		return nil, fmt.Errorf("setting up the control groups: %w", err)
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return nil, fmt.Errorf("setting up the control groups: %w", err)
	}
	mount, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, fmt.Errorf("mounting the control groups: %w", err)
	}
	return FromFD(mount, "")
}

// FromFD makes Groups of a descriptor that Open returned in another process, and takes it over.
// home is the group of this process.
func FromFD(fd int, home string) (*Groups, error) {
	unix.CloseOnExec(fd)
	g := &Groups{root: tree(fd), home: home, own: ownGroup}
	if err := g.renew(); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return g, nil
}

// FD returns the mount's descriptor, for handing it to another process.
func (g *Groups) FD() uintptr { return uintptr(g.root) }

// Make opens a group. If it is missing, Make makes it.
func (g *Groups) Make(name string) (*os.File, error) {
	if err := unix.Mkdirat(int(g.root), name, 0o755); err != nil && err != unix.EEXIST {
		return nil, fmt.Errorf("making control group %s: %w", name, err)
	}
	fd, err := g.root.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, fmt.Errorf("opening control group %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Enter moves this process into a group. If it is missing, Enter makes it.
func (g *Groups) Enter(name string) error {
	f, err := g.Make(name)
	if err != nil {
		return err
	}
	f.Close()
	return g.move(os.Getpid(), name)
}

// ForCommands returns the descriptor of the group in which commands start.
func (g *Groups) ForCommands() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return int(g.commands.Fd())
}

// Lost reports whether the group for commands was removed.
func (g *Groups) Lost() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return unix.Faccessat(int(g.commands.Fd()), "cgroup.procs", unix.F_OK, 0) != nil
}

// Renew makes another group for commands, if the present one accepts none. Root in the guest may
// have removed it, or enabled controllers in it.
func (g *Groups) Renew() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.renew()
}

func (g *Groups) renew() error {
	name := Commands
	if g.made > 0 {
		name += "-" + strconv.Itoa(g.made+1)
	}
	f, err := g.Make(name)
	if err != nil {
		return err
	}
	if g.commands != nil {
		g.commands.Close()
	}
	g.commands, g.name = f, name
	g.made++
	return nil
}

// Freeze halts all processes and returns how many there are. If ctx ends before, it lets them
// continue. This process must start nothing into a group meanwhile: it would wait for a child that
// does not run.
func (g *Groups) Freeze(ctx context.Context) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.frozen = map[string]bool{}
	if err := g.freeze(ctx); err != nil {
		return 0, errors.Join(err, g.thaw())
	}
	n := 0
	for name := range g.frozen {
		n += len(g.root.processes(name))
	}
	return n, nil
}

func (g *Groups) freeze(ctx context.Context) error {
	if err := g.returnToGroup(); err != nil {
		return err
	}
	// Running processes can make groups and move between them. So repeat until nothing is left to
	// do.
	for {
		fresh, err := g.freezeNew()
		if err != nil {
			return err
		}
		if err := g.await(ctx); err != nil {
			return err
		}
		moved, err := g.moveStrays()
		if err != nil {
			return err
		}
		if fresh+moved == 0 {
			return nil
		}
	}
}

// Thaw lets the processes continue that Freeze halted.
func (g *Groups) Thaw() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.thaw()
}

func (g *Groups) thaw() error {
	var errs []error
	for name, ours := range g.frozen {
		if !ours {
			continue
		}
		if err := g.root.write(name+"/cgroup.freeze", "0"); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("thawing control group %s: %w", name, err))
		}
	}
	g.frozen = nil
	return errors.Join(errs...)
}

// returnToGroup moves the agent back to its group. Root in the guest may have moved it with all
// others, as docker's own script for docker in docker does. Then the agent would freeze itself.
func (g *Groups) returnToGroup() error {
	at, err := g.own()
	if err != nil || at == "/"+g.home {
		return err
	}
	if g.home == "" {
		return g.move(os.Getpid(), ".")
	}
	return g.Enter(g.home)
}

// ownGroup returns this process's group (cgroups(7), /proc/[pid]/cgroup).
func ownGroup() (string, error) {
	text, err := tree(unix.AT_FDCWD).read("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("looking for the agent's control group: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if at, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSuffix(at, "\n"), nil
		}
	}
	return "", fmt.Errorf("looking for the agent's control group: %w", os.ErrNotExist)
}

// freezeNew freezes groups that are not frozen yet, and returns how many.
func (g *Groups) freezeNew() (int, error) {
	names, err := g.root.groups(".")
	if err != nil {
		return 0, fmt.Errorf("listing the control groups: %w", err)
	}
	fresh := 0
	for _, name := range names {
		if _, known := g.frozen[name]; known || name == g.home {
			continue
		}
		already, err := g.root.read(name + "/cgroup.freeze")
		ours := string(bytes.TrimSpace(already)) != "1" // otherwise the guest froze it itself
		if err == nil && ours {
			err = g.root.write(name+"/cgroup.freeze", "1")
		}
		switch {
		case err == nil:
			g.frozen[name] = ours
			fresh++
		case !gone(err):
			return fresh, fmt.Errorf("freezing control group %s: %w", name, err)
		}
	}
	return fresh, nil
}

// patience is how long a group may take before Groups looks for the cause.
const patience = 20 * time.Millisecond

// await waits until all processes in the groups are halted.
func (g *Groups) await(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(g.frozen)) {
		if err := g.awaitGroup(ctx, name); err != nil && !gone(err) {
			return fmt.Errorf("freezing control group %s%s: %w", name, g.root.waiting(name), err)
		}
	}
	return nil
}

func (g *Groups) awaitGroup(ctx context.Context, name string) error {
	soon, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := g.root.awaitFrozen(soon, name); err == nil || soon.Err() == nil {
		return err
	}
	if err := g.expelKernel(name); err != nil {
		return err
	}
	return g.root.awaitFrozen(ctx, name)
}

// expelKernel moves kernel threads out of a group: they never freeze, and so the group would never
// be frozen. Scripts that make room for docker move them in with everything else of the root.
func (g *Groups) expelKernel(name string) error {
	kernel := kernelThreads()
	moved := 0
	for _, pid := range g.root.processes(name) {
		if !kernel(pid) {
			continue
		}
		if err := g.move(pid, "."); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
		moved++
	}
	if moved == 0 {
		return nil
	}
	// A thread that leaves does not make the kernel count again; a change of the state does.
	for _, state := range []string{"0", "1"} {
		if err := g.root.write(name+"/cgroup.freeze", state); err != nil {
			return err
		}
	}
	return nil
}

// moveStrays moves processes out of groups that cannot be frozen, and returns how many. There are
// few, such as a hook's daemon or a process that was started into the root on purpose.
func (g *Groups) moveStrays() (int, error) {
	strays, err := g.members(".")
	if err != nil {
		return 0, err
	}
	if g.home != "" {
		more, err := g.members(g.home)
		if err != nil {
			return 0, err
		}
		strays = append(strays, more...)
	}
	kernel := kernelThreads()
	moved := 0
	for _, pid := range strays {
		if pid == os.Getpid() || kernel(pid) {
			continue
		}
		if err := g.moveToCommands(pid); err != nil {
			return moved, err
		}
		moved++
	}
	return moved, nil
}

func (g *Groups) members(name string) ([]int, error) {
	text, err := g.root.read(name + "/cgroup.procs")
	if err != nil {
		return nil, fmt.Errorf("listing the processes of control group %s: %w", name, err)
	}
	return numbers(text), nil
}

// moveToCommands moves a process to the commands' group. It ignores a process that has ended.
func (g *Groups) moveToCommands(pid int) error {
	err := g.move(pid, g.name)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		if err := g.renew(); err != nil {
			return err
		}
		err = g.move(pid, g.name)
	}
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

func (g *Groups) move(pid int, name string) error {
	if err := g.root.write(name+"/cgroup.procs", strconv.Itoa(pid)); err != nil {
		return fmt.Errorf("moving process %d to control group %s: %w", pid, name, err)
	}
	return nil
}

// gone reports whether a group was removed: its directory is missing, or an open file of it is
// dead.
func gone(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) }
