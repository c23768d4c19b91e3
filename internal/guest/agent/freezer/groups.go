// Package freezer halts every process of the guest but the agent, and lets them go on: what must happen around the moment at which a machine is
// saved, so that nobody runs in a fork before that has an identity of its own.
//
// Groups does it by control groups (Documentation/admin-guide/cgroup-v2.rst, "cgroup.freeze"): the processes notice nothing, and no new one can
// slip through. Signals does it by SIGSTOP, where the kernel has no control groups.
package freezer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Groups at the top of the hierarchy that are ours.
const (
	Agent    = "banger-agent" // the agent beside the image's init
	Commands = "banger"       // what the agent starts for the host; more of them have a number behind the name
	Init     = "init.scope"   // the image's init; systemd takes that group for its own (systemd.special(7)), and others do not mind
)

// Groups freezes the groups at the top of the machine's one cgroup2 hierarchy, all but the agent's. It reaches the hierarchy by a mount
// of its own that has no place in the tree of mounts: whether and where the image mounts it, and whether in its place the hierarchies of
// version 1, makes no difference.
//
// Processes that are in no group, or in the agent's, where nothing could freeze them, are moved to the commands' group first.
type Groups struct {
	mount *os.File
	root  string // a path of mount, good within this process
	home  string // the agent's group; "" is the root of the hierarchy, which cannot be frozen either

	mu       sync.Mutex
	commands *os.File        // of the group for commands
	made     int             // how many such groups there have been
	frozen   map[string]bool // groups that stand still; true: because of us
}

// Open mounts the hierarchy. The calling process stays in its root.
func Open() (*Groups, error) {
	fd, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("opening the control groups: %w", err)
	}
	defer unix.Close(fd)
	// Options are the hierarchy's, not the mount's: this is the one that the mount at /sys/fs/cgroup has.
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
	return FromFD(uintptr(mount), "")
}

// FromFD is what Open returned in another process. home is the group of this process.
func FromFD(fd uintptr, home string) (*Groups, error) {
	unix.CloseOnExec(int(fd))
	g := &Groups{mount: os.NewFile(fd, "cgroup2"), root: fmt.Sprintf("/proc/self/fd/%d", fd), home: home}
	if err := g.renew(); err != nil {
		return nil, err
	}
	return g, nil
}

// FD is the mount's descriptor, to be handed to another process.
func (g *Groups) FD() uintptr { return g.mount.Fd() }

// Make makes a group unless it is there, and opens it.
func (g *Groups) Make(name string) (*os.File, error) {
	dir := filepath.Join(g.root, name)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("making control group %s: %w", name, plain(err))
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("opening control group %s: %w", name, plain(err))
	}
	return f, nil
}

// Enter moves this process into a group, which is made.
func (g *Groups) Enter(name string) error {
	f, err := g.Make(name)
	if err != nil {
		return err
	}
	f.Close()
	return g.move(name, os.Getpid())
}

// ForCommands is the descriptor of the group in which commands are to start.
func (g *Groups) ForCommands() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return int(g.commands.Fd())
}

// Renew makes another group for commands, for when the one that there is takes none: root in the guest may have removed it, or made it a
// group that holds only groups.
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
	g.commands = f
	g.made++
	return nil
}

// Freeze halts everybody, and returns how many processes that are. When ctx ends before all stand still, they go on again. Nothing may be
// started into a group by this process meanwhile: it would wait for a child that does not run.
func (g *Groups) Freeze(ctx context.Context) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.frozen = map[string]bool{}
	if err := g.freeze(ctx); err != nil {
		return 0, errors.Join(err, g.thaw())
	}
	return g.count(), nil
}

func (g *Groups) freeze(ctx context.Context) error {
	if err := g.goHome(); err != nil {
		return err
	}
	// Who still runs can make groups and move between them, so it is over when a round finds nothing to do.
	for {
		moved, err := g.gather()
		if err != nil {
			return err
		}
		fresh, err := g.freezeNew()
		if err != nil {
			return err
		}
		if moved+fresh == 0 {
			return nil
		}
		for name := range g.frozen {
			if err := awaitFrozen(ctx, filepath.Join(g.root, name)); err != nil {
				return fmt.Errorf("freezing control group %s: %w", name, err)
			}
		}
	}
}

// Thaw lets go on whom Freeze halted.
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
		if err := write(filepath.Join(g.root, name, "cgroup.freeze"), "0"); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("thawing control group %s: %w", name, plain(err)))
		}
	}
	g.frozen = nil
	return errors.Join(errs...)
}

// goHome returns the agent to its group, should root in the guest have moved it with all others (as docker's own script for docker in
// docker does): it would freeze itself.
func (g *Groups) goHome() error {
	at, err := ownGroup()
	if err != nil || at == "/"+g.home {
		return err
	}
	if g.home == "" {
		return g.move("", os.Getpid())
	}
	return g.Enter(g.home)
}

// ownGroup is this process's place in the hierarchy (cgroups(7), /proc/[pid]/cgroup).
func ownGroup() (string, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("looking for the agent's control group: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if at, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSuffix(at, "\n"), nil
		}
	}
	return "", fmt.Errorf("looking for the agent's control group: %w", fs.ErrNotExist)
}

// gather moves processes out of the groups that are not frozen, and tells how many.
func (g *Groups) gather() (int, error) {
	strays, err := g.members("")
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
		if err := g.takeIn(pid); err != nil {
			return moved, err
		}
		moved++
	}
	return moved, nil
}

// takeIn moves a process to the commands. One that has ended meanwhile is fine.
func (g *Groups) takeIn(pid int) error {
	err := g.moveTo(g.commands.Name(), pid)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		if err := g.renew(); err != nil {
			return err
		}
		err = g.moveTo(g.commands.Name(), pid)
	}
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("moving process %d to another control group: %w", pid, plain(err))
	}
	return nil
}

// freezeNew tells those groups to freeze that were not told yet, and how many they were.
func (g *Groups) freezeNew() (int, error) {
	entries, err := os.ReadDir(g.root)
	if err != nil {
		return 0, fmt.Errorf("listing the control groups: %w", plain(err))
	}
	fresh := 0
	for _, e := range entries {
		name := e.Name()
		if _, known := g.frozen[name]; known || name == g.home || !e.IsDir() {
			continue
		}
		file := filepath.Join(g.root, name, "cgroup.freeze")
		already, err := os.ReadFile(file)
		ours := string(bytes.TrimSpace(already)) != "1" // else it is frozen for reasons of the guest's own
		if err == nil && ours {
			err = write(file, "1")
		}
		switch {
		case err == nil:
			g.frozen[name] = ours
			fresh++
		case !gone(err):
			return fresh, fmt.Errorf("freezing control group %s: %w", name, plain(err))
		}
	}
	return fresh, nil
}

// awaitFrozen waits until all in a group stand still. The kernel says so by an event on the file.
func awaitFrozen(ctx context.Context, dir string) error {
	f, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if gone(err) {
		return nil
	}
	if err != nil {
		return plain(err)
	}
	defer f.Close()
	var buf [256]byte
	for {
		n, err := f.ReadAt(buf[:], 0)
		if gone(err) || bytes.Contains(buf[:n], []byte("frozen 1\n")) {
			return nil
		}
		if n == 0 && err != nil {
			return plain(err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := awaitEvent(int(f.Fd())); err != nil {
			return err
		}
	}
}

// eventTime bounds one wait in milliseconds. The kernel holds an event back for up to 10 ms when there was another one shortly before
// (kernel/cgroup/cgroup.c, CGROUP_FILE_NOTIFY_MIN_INTV), as when a command has just ended.
const eventTime = 2

func awaitEvent(fd int) error {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
	if _, err := unix.Poll(fds, eventTime); err != nil && err != unix.EINTR {
		return fmt.Errorf("waiting for a control group's event: %w", err)
	}
	return nil
}

// count counts the processes of the frozen groups.
func (g *Groups) count() int {
	n := 0
	for name := range g.frozen {
		n += countBelow(filepath.Join(g.root, name))
	}
	return n
}

func countBelow(dir string) int {
	procs, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs")) // unreadable in a threaded group; its processes are counted above it
	n := bytes.Count(procs, []byte("\n"))
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			n += countBelow(filepath.Join(dir, e.Name()))
		}
	}
	return n
}

// members lists the processes of a group.
func (g *Groups) members(name string) ([]int, error) {
	text, err := os.ReadFile(filepath.Join(g.root, name, "cgroup.procs"))
	if err != nil {
		return nil, fmt.Errorf("listing the processes of control group /%s: %w", name, plain(err))
	}
	return numbers(text), nil
}

func (g *Groups) move(name string, pid int) error {
	if err := g.moveTo(filepath.Join(g.root, name), pid); err != nil {
		return fmt.Errorf("moving process %d to control group /%s: %w", pid, name, plain(err))
	}
	return nil
}

func (g *Groups) moveTo(dir string, pid int) error {
	return write(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid))
}

// write writes to a file that is there. A control group's files cannot be made.
func write(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(text)
	return err
}

// gone tells whether a group was removed: its folder is not there, or what is open of it is dead.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) }

// plain takes the path off an error: it is one of our own process's.
func plain(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}
