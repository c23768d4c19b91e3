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

// freezeTime is how long everybody may take to stand still. It is a matter of milliseconds, unless somebody waits for a disk.
const freezeTime = 2 * time.Second

// freeze answers POST /v1/freeze.
func (a *agent) freeze(r *http.Request) (any, error) {
	a.turn.Lock()
	defer a.turn.Unlock()
	switch a.now() {
	case anonymous: // nobody is there yet
		return proto.Frozen{}, nil
	case frozen:
		return proto.Frozen{Processes: a.halted}, nil
	case assumed:
	default:
		return nil, fault.New(fault.WrongState, "this machine has no identity with which it could go on")
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), freezeTime, fault.New(fault.Unavailable, "it still runs after %v", freezeTime))
	defer cancel()
	n, err := a.halt(ctx)
	if err != nil {
		return nil, err
	}
	a.halted = n
	a.setStill(true)
	a.enter(frozen)
	return proto.Frozen{Processes: n}, nil
}

// halt halts everybody, or nobody.
func (a *agent) halt(ctx context.Context) (int, error) {
	a.stage.Lock() // a process that has not come to execve(2) yet would be frozen with the one that waits for it
	defer a.stage.Unlock()
	a.procs.Halt()
	n, err := a.freezer.Freeze(ctx)
	if err != nil {
		a.procs.Resume(false)
	}
	return n, err
}

// thaw answers POST /v1/thaw: time has gone by, and the machine is the one that it was.
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
	a.turn.Lock()
	defer a.turn.Unlock()
	if a.now() == spoiled {
		return nil, fault.New(fault.WrongState, "this machine has no identity with which it could go on")
	}
	if err := errors.Join(addEntropy(req.Entropy), setTime(req.Time)); err != nil {
		return nil, err
	}
	if err := a.renewNetworks(req.Networks); err != nil {
		return nil, err
	}
	if a.now() == frozen {
		if err := a.release(false); err != nil {
			return nil, err
		}
		a.enter(assumed)
	}
	return struct{}{}, nil
}

// renewNetworks configures the cards again. resolv.conf changes only if the networks do: it may be the user's own.
func (a *agent) renewNetworks(networks []proto.Network) error {
	if len(networks) == 0 {
		return nil
	}
	if a.now() == anonymous {
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

// release lets everybody go on. fork tells that they do so in another machine.
func (a *agent) release(fork bool) error {
	if err := a.freezer.Thaw(); err != nil {
		return err
	}
	a.setStill(false)
	a.procs.Resume(fork)
	return nil
}

func (a *agent) setStill(still bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.still = still
}

func (a *agent) isStill() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.still
}

// becomeFork does what only a machine needs that was another one before, and ends with letting everybody go on.
func (a *agent) becomeFork(doc proto.Assume) error {
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
	return a.release(true)
}

// Files of a fork's.
const (
	bangerDir      = "/run/banger"
	generationFile = bangerDir + "/generation" // how many identities this machine has had after its first
	bootIDFile     = bangerDir + "/boot_id"
	kernelBootID   = "/proc/sys/kernel/random/boot_id"
)

// coverBootID puts a file of ours over the boot id, which the kernel keeps for good. It says the same as long as the machine is no fork.
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

// renewBootID gives the machine another boot id. Our file is overwritten, as it has one length; it is put there again if root in the guest has taken
// it away.
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

// newUUID returns a random UUID (RFC 9562, section 5.4) in the kernel's spelling.
func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// writeAtomically replaces a file in a folder of ours.
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

// hooksDir holds the image's programs that adapt what the agent does not know of to another identity. They run as root, in lexical order, after
// everything else, and before anybody goes on: what they talk to stands still.
const hooksDir = "/etc/banger/fork.d"

// Bounds on hooks.
const (
	hooksTime = 10 * time.Second // for all of them together
	maxHooks  = 64
)

// runHooks runs the executable files in dir. Their failures are said and change nothing: a machine that is up is better than none.
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
	ctx, cancel := context.WithTimeoutCause(context.Background(), hooksTime, fmt.Errorf("the hooks take longer than %v", hooksTime))
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

// executables lists the executable files in a folder in lexical order.
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

// haltedForGood tells whether everybody is halted and cannot go on: the machine then ends without asking anybody. Who is only frozen
// goes on, so that the end is an orderly one.
func (a *agent) haltedForGood() bool {
	if !a.turn.TryLock() {
		return false // who has the turn lets them go on
	}
	defer a.turn.Unlock()
	if a.now() == frozen {
		if err := a.release(false); err != nil {
			a.log.Error("thawing", "error", err)
		} else {
			a.enter(assumed)
		}
	}
	return a.isStill()
}
