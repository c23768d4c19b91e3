package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/guest/agent/proc"
	"banger/internal/guest/proto"
)

// freezeTime bounds halting all processes. It takes milliseconds, unless one of them waits for a
// disk.
const freezeTime = 2 * time.Second

// freeze answers POST /v1/freeze.
func (a *agent) freeze(r *http.Request) (any, error) {
	a.changeMu.Lock()
	defer a.changeMu.Unlock()
	switch a.now() {
	case unidentified: // no other process exists yet
		return proto.Frozen{}, nil
	case frozen:
		return proto.Frozen{Processes: a.haltedCount}, nil
	case assumed:
	default:
		return nil, fault.New(fault.WrongState, "this machine has no usable identity; only a new start helps")
	}
	late := fault.New(fault.Unavailable, "processes still run after %v", freezeTime)
	ctx, cancel := context.WithTimeoutCause(r.Context(), freezeTime, late)
	defer cancel()
	n, err := a.halt(ctx)
	if err != nil {
		return nil, err
	}
	a.haltedCount = n
	a.setHalted(true)
	a.enter(frozen)
	return proto.Frozen{Processes: n}, nil
}

// halt halts all other processes, or none.
func (a *agent) halt(ctx context.Context) (int, error) {
	// A process on its way to execve(2) would be frozen together with the one that waits for it.
	a.spawnMu.Lock()
	defer a.spawnMu.Unlock()
	a.procs.Halt()
	n, err := a.freezer.Freeze(ctx)
	if err != nil {
		a.procs.Resume(false)
	}
	return n, err
}

// thaw answers POST /v1/thaw: time has passed, and the machine continues with the identity that it
// had.
func (a *agent) thaw(r *http.Request) (any, error) {
	var req proto.Thaw
	if err := readJSON(r, proto.MaxReply, &req); err != nil {
		return nil, err
	}
	switch {
	case len(req.Entropy) < minEntropy:
		return nil, fault.New(fault.Invalid, "entropy: %d bytes are less than %d", len(req.Entropy), minEntropy)
	case req.Time.IsZero():
		return nil, fault.New(fault.Invalid, "time: missing")
	}
	if err := checkNetworks(req.Networks); err != nil {
		return nil, err
	}
	a.changeMu.Lock()
	defer a.changeMu.Unlock()
	if a.now() == spoiled {
		return nil, fault.New(fault.WrongState, "this machine has no usable identity; only a new start helps")
	}
	if err := errors.Join(addEntropy(req.Entropy), setTime(req.Time)); err != nil {
		return nil, err
	}
	if err := a.renewNetworks(req.Networks); err != nil {
		return nil, err
	}
	if a.now() == frozen {
		if err := a.continueProcesses(false); err != nil {
			return nil, err
		}
		a.enter(assumed)
	}
	return struct{}{}, nil
}

// renewNetworks configures the cards again. It writes resolv.conf only if the networks differ: the
// user may have changed it.
func (a *agent) renewNetworks(networks []proto.Network) error {
	if len(networks) == 0 {
		return nil
	}
	if a.now() == unidentified {
		return fault.New(fault.WrongState, "this machine has no identity, and so no networks")
	}
	if err := configureNetworks(networks); err != nil {
		return err
	}
	a.mu.Lock()
	same := reflect.DeepEqual(a.identity.Networks, networks)
	a.identity.Networks = networks
	a.mu.Unlock()
	if same {
		return nil
	}
	return replaceFile("/etc/resolv.conf", resolvConf(networks))
}

// continueProcesses lets all processes continue. fork reports whether they do so in another
// machine.
func (a *agent) continueProcesses(fork bool) error {
	if err := a.freezer.Thaw(); err != nil {
		return err
	}
	a.setHalted(false)
	a.procs.Resume(fork)
	return nil
}

func (a *agent) setHalted(halted bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.halted = halted
}

func (a *agent) isHalted() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.halted
}

// finishFork does what only a fork needs, and then lets all processes continue.
func (a *agent) finishFork(doc proto.Assume) error {
	a.mu.Lock()
	a.forks++
	forks := a.forks
	a.mu.Unlock()
	if err := renewBootID(); err != nil {
		return err
	}
	generation := strconv.Itoa(forks)
	if err := writeAtomically(generationFile, generation+"\n", 0o644); err != nil {
		return err
	}
	a.runHooks(hooksDir, "BANGER_NAME="+doc.Hostname, "BANGER_GENERATION="+generation)
	return a.continueProcesses(true)
}

// Files that belong to a fork.
const (
	bangerDir      = "/run/banger"
	generationFile = bangerDir + "/generation" // identities after the first
	bootIDFile     = bangerDir + "/boot_id"
	kernelBootID   = "/proc/sys/kernel/random/boot_id"
)

// coverBootID mounts a file of ours over the boot id, which the kernel never changes. The file
// holds the same id until the machine becomes a fork.
func coverBootID() error {
	id, err := os.ReadFile(kernelBootID)
	if err != nil {
		return fmt.Errorf("reading the boot id: %w", err)
	}
	if err := writeAtomically(bootIDFile, string(id), 0o444); err != nil {
		return err
	}
	if err := unix.Mount(bootIDFile, kernelBootID, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("covering the boot id: %w", err)
	}
	return nil
}

// renewBootID gives the machine another boot id by overwriting our file. If root in the guest has
// unmounted the file, renewBootID mounts it again.
func renewBootID() error {
	id := newUUID() + "\n"
	if f, err := os.OpenFile(bootIDFile, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0); err == nil {
		_, err = f.WriteAt([]byte(id), 0)
		f.Close()
		if got, readErr := os.ReadFile(kernelBootID); err == nil && readErr == nil && string(got) == id {
			return nil
		}
	}
	unix.Unmount(kernelBootID, unix.MNT_DETACH)
	if err := coverBootID(); err != nil {
		return err
	}
	return os.WriteFile(kernelBootID, []byte(id), 0o444)
}

// newUUID returns a random UUID (RFC 9562, section 5.4) in the kernel's notation.
func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// writeAtomically replaces a file in a directory of ours.
func writeAtomically(name, text string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	part := name + ".part"
	if err := os.Remove(part); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := os.WriteFile(part, []byte(text), mode); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return os.Rename(part, name)
}

// hooksDir holds programs of the image that adapt it to another identity. They run as root, in
// lexical order, after everything else and before any other process continues.
const hooksDir = "/etc/banger/fork.d"

// Bounds on hooks.
const (
	hooksTime = 10 * time.Second // for all hooks together
	maxHooks  = 64
)

// runHooks runs the executable files in dir. A failure is logged and changes nothing else: a
// machine that is up is better than none.
func (a *agent) runHooks(dir string, env ...string) {
	names := executables(dir)
	if len(names) == 0 {
		return
	}
	out, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		a.log.Warn("fork hooks", "error", err)
		return
	}
	defer out.Close()
	late := fmt.Errorf("the hooks take longer than %v", hooksTime)
	ctx, cancel := context.WithTimeoutCause(context.Background(), hooksTime, late)
	defer cancel()
	runner := a.runner()
	runner.Workdir = "/"
	for _, name := range names {
		start := time.Now()
		err := runHook(ctx, runner, filepath.Join(dir, name), env, out)
		if err != nil {
			a.log.Warn("fork hook failed", "hook", name, "took", time.Since(start), "error", err)
		}
	}
}

func runHook(ctx context.Context, runner *proc.Runner, path string, env []string, out *os.File) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return runner.RunHook(ctx, proto.ExecRequest{Argv: []string{path}, Env: env, User: "0:0"}, out)
}

// executables lists the executable files in a directory in lexical order.
func executables(dir string) []string {
	entries, _ := os.ReadDir(dir) // sorts; most images have none
	var names []string
	for _, e := range entries {
		info, err := os.Stat(filepath.Join(dir, e.Name()))
		if err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
			names = append(names, e.Name())
		}
	}
	return names[:min(len(names), maxHooks)]
}

// stuckHalted reports whether all processes are halted and cannot continue. Then the machine ends
// without asking them. It first thaws a frozen machine, so that its end is orderly.
func (a *agent) stuckHalted() bool {
	if !a.changeMu.TryLock() {
		return false // whoever holds it lets the processes continue
	}
	defer a.changeMu.Unlock()
	if a.now() == frozen {
		if err := a.continueProcesses(false); err != nil {
			a.log.Error("thawing", "error", err)
		} else {
			a.enter(assumed)
		}
	}
	return a.isHalted()
}
