package agent

import (
	"encoding/hex"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path"
	"strings"

	"golang.org/x/crypto/ssh"

	"banger/internal/fault"
	"banger/internal/guest/agent/mount"
	"banger/internal/guest/proto"
)

// assumeService gives the machine its identity.
type assumeService struct {
	log       *slog.Logger
	life      *life
	marks     *marks
	settings  *settings
	cards     *cards
	drives    *mount.Drives
	processes *processes
	forks     *forkFinisher
	handover  *handover
}

// assume answers POST /v1/assume. A failed check leaves the machine as it was. A later failure
// spoils it.
func (s *assumeService) assume(w http.ResponseWriter, r *http.Request) error {
	var doc proto.Assume
	if err := readJSON(r, proto.MaxAssume, &doc); err != nil {
		return err
	}
	if err := check(doc); err != nil {
		return err
	}
	s.life.change.Lock()
	defer s.life.change.Unlock()
	fork, err := s.changeIdentity(doc)
	if err != nil {
		return err
	}
	if fork || len(doc.Init) == 0 {
		reply(w, http.StatusOK, proto.Assumed{Marks: s.marks.all()})
		return nil
	}
	if err := s.handover.begin(doc.Init); err != nil {
		return err
	}
	reply(w, http.StatusOK, proto.Assumed{Handover: true, Marks: s.marks.all()})
	http.NewResponseController(w).Flush() // returns when the answer is under way
	close(s.handover.done)
	return nil
}

// changeIdentity gives the machine the identity in the document. It reports whether the machine had
// another one before. The caller holds life.change.
func (s *assumeService) changeIdentity(doc proto.Assume) (fork bool, err error) {
	switch s.life.now() {
	case unidentified:
	case frozen:
		fork = true
	default:
		return false, fault.New(fault.WrongState, "this machine has taken on an identity before")
	}
	s.life.enter(assuming)
	s.drives.LendReserves()
	defer func() {
		if err := s.drives.KeepReserves(); err != nil {
			s.log.Warn("a full disk may keep the next start from working", "error", err)
		}
	}()
	if err = s.applyIdentity(doc, fork); err == nil && fork {
		err = s.forks.finish(doc.Hostname)
	}
	if err != nil {
		s.life.enter(spoiled)
		return fork, err
	}
	s.marks.add("assumed")
	s.life.enter(assumed)
	return fork, nil
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
func (s *assumeService) applyIdentity(doc proto.Assume, fork bool) error {
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
		if err := s.makeRoot(doc); err != nil {
			return err
		}
	}
	if err := s.cards.assign(doc.Networks); err != nil {
		return err
	}
	for _, m := range doc.Mounts {
		if s.drives.Has(m) {
			continue
		}
		if err := s.drives.Mount(m); err != nil {
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
	s.settings.set(identity{
		Env: doc.Env, User: doc.User, Workdir: doc.Workdir,
		HostKey: doc.HostKey, AuthorizedKeys: doc.AuthorizedKeys,
	})
	return nil
}

// makeRoot builds the root file system and what depends on it.
func (s *assumeService) makeRoot(doc proto.Assume) error {
	if err := mount.Root(doc.Root, s.drives, &s.processes.spawn); err != nil {
		return err
	}
	s.processes.chooseFreezer()
	if len(doc.Init) == 0 {
		if err := mount.ControlGroups(); err != nil {
			s.log.Warn("no control groups", "error", err)
		}
	}
	s.marks.add("root")
	if err := coverBootID(); err != nil {
		s.log.Warn("forks of this machine will have its boot id", "error", err)
	}
	return nil
}
