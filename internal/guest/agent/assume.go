package agent

import (
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path"
	"reflect"
	"strings"

	"golang.org/x/crypto/ssh"

	"banger/internal/fault"
	"banger/internal/guest/agent/freezer"
	"banger/internal/guest/proto"
)

// minEntropy is how many bytes make a generator unpredictable: 256 bits.
const minEntropy = 32

// assume answers POST /v1/assume. A failed check leaves the machine as it was. A later failure
// spoils it.
func (a *agent) assume(w http.ResponseWriter, r *http.Request) {
	var doc proto.Assume
	err := readJSON(r, proto.MaxAssume, &doc)
	if err == nil {
		err = check(doc)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.changeMu.Lock()
	defer a.changeMu.Unlock()
	fork, err := a.changeIdentity(doc)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if fork || len(doc.Init) == 0 {
		reply(w, http.StatusOK, proto.Assumed{Marks: a.allMarks()})
		return
	}
	if err := a.handOver(doc.Init); err != nil {
		a.fail(w, r, err)
		return
	}
	reply(w, http.StatusOK, proto.Assumed{Handover: true, Marks: a.allMarks()})
	http.NewResponseController(w).Flush() // returns when the answer is under way
	close(a.handedOver)
}

// changeIdentity gives the machine the identity in the document. It reports whether the machine had
// another one before. The caller holds changeMu.
func (a *agent) changeIdentity(doc proto.Assume) (fork bool, err error) {
	switch a.now() {
	case unidentified:
	case frozen:
		fork = true
	default:
		return false, fault.New(fault.WrongState, "this machine has taken on an identity before")
	}
	a.enter(assuming)
	if err = a.applyIdentity(doc, fork); err == nil && fork {
		err = a.finishFork(doc)
	}
	if err != nil {
		a.enter(spoiled)
		return fork, err
	}
	a.mark("assumed")
	a.enter(assumed)
	return fork, nil
}

func (a *agent) now() phase {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.phase
}

// enter moves to another phase. The caller holds changeMu.
func (a *agent) enter(to phase) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.phase = to
	if a.changed != nil {
		close(a.changed)
		a.changed = nil
	}
}

func (a *agent) allMarks() []proto.Mark {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]proto.Mark(nil), a.marks...)
}

// check finds mistakes in the document before anything is done.
func check(doc proto.Assume) error {
	bad := func(format string, args ...any) error { return fault.New(fault.Invalid, format, args...) }
	switch {
	case len(doc.Entropy) < minEntropy:
		return bad("entropy: %d bytes are less than %d", len(doc.Entropy), minEntropy)
	case doc.Time.IsZero():
		return bad("time: missing")
	case doc.Hostname == "" || len(doc.Hostname) > 64 || strings.ContainsAny(doc.Hostname, " \t\n/\x00"):
		return bad("hostname: %q is not one", doc.Hostname)
	case doc.Root.Image == "" || doc.Root.System == "":
		return bad("root: image and system drives are needed")
	case doc.Root.ImageSize < 0 || doc.Root.SystemSize < 0:
		return bad("root: a drive cannot have %d bytes", min(doc.Root.ImageSize, doc.Root.SystemSize))
	case doc.Workdir != "" && !path.IsAbs(doc.Workdir):
		return bad("workdir: %q is not absolute", doc.Workdir)
	}
	if doc.MachineID != "" {
		if b, err := hex.DecodeString(doc.MachineID); err != nil || len(b) != 16 {
			return bad("machine_id: %q does not have 32 hex digits", doc.MachineID)
		}
	}
	if len(doc.HostKey) > 0 {
		if _, err := ssh.ParsePrivateKey(doc.HostKey); err != nil {
			return bad("host_key: %w", err)
		}
	}
	for _, m := range doc.Mounts {
		if m.Serial == "" || m.Size < 0 || !path.IsAbs(m.Target) || path.Clean(m.Target) == "/" {
			return bad("mounts: drive %q of %d bytes cannot be mounted at %q", m.Serial, m.Size, m.Target)
		}
	}
	for _, f := range doc.Files {
		if !path.IsAbs(f.Path) || strings.HasSuffix(f.Path, "/") || fs.FileMode(f.Mode)&^0o7777 != 0 {
			return bad("files: %q with mode %o cannot be written", f.Path, f.Mode)
		}
	}
	return checkNetworks(doc.Networks)
}

// applyIdentity applies the document in the order of its fields. A fork keeps its root.
func (a *agent) applyIdentity(doc proto.Assume, fork bool) error {
	if err := addEntropy(doc.Entropy); err != nil {
		return err
	}
	if err := setTime(doc.Time); err != nil {
		return err
	}
	if err := setHostname(doc.Hostname); err != nil {
		return err
	}
	if !fork {
		if err := a.makeRoot(doc); err != nil {
			return err
		}
	}
	// If the parent had the same networks, the cards are ready. Accessing a card is expensive in
	// emulation.
	if !fork || !reflect.DeepEqual(a.identity.Networks, doc.Networks) {
		if err := configureNetworks(doc.Networks); err != nil {
			return err
		}
	}
	for _, m := range doc.Mounts {
		if a.isMounted(m) {
			continue
		}
		if err := a.mountWork(m); err != nil {
			return err
		}
	}
	if err := writeIdentity(doc); err != nil {
		return err
	}
	for _, f := range doc.Files {
		if err := writeFile(f); err != nil {
			return err
		}
	}
	if doc.Workdir != "" { // as OCI runtimes do
		if err := os.MkdirAll(doc.Workdir, 0o755); err != nil {
			return fmt.Errorf("making the working directory: %w", err)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.identity = identity{
		Env: doc.Env, User: doc.User, Workdir: doc.Workdir,
		HostKey: doc.HostKey, AuthorizedKeys: doc.AuthorizedKeys, Networks: doc.Networks,
	}
	return nil
}

// makeRoot builds the root file system and what depends on it.
func (a *agent) makeRoot(doc proto.Assume) error {
	if err := a.buildRoot(doc.Root); err != nil {
		return err
	}
	if err := linkDevices(); err != nil {
		return err
	}
	a.makeFreezer()
	if len(doc.Init) == 0 {
		if err := mountAll(cgroupMounts); err != nil {
			a.log.Warn("no control groups", "error", err)
		}
	}
	a.mark("root")
	if err := coverBootID(); err != nil {
		a.log.Warn("forks of this machine will have its boot id", "error", err)
	}
	return nil
}

// makeFreezer chooses the way to halt the commands that start from now on.
func (a *agent) makeFreezer() {
	groups, err := freezer.Open()
	if err != nil {
		a.log.Warn("no control groups", "error", err)
		a.freezer = &freezer.Signals{}
		return
	}
	a.procs.UseGroups(groups)
	a.freezer = groups
}
