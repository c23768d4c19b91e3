package capability

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"banger/internal/disk"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/openssh"
	"banger/internal/paths"
	"banger/internal/regular"
)

// SSH makes each VM reachable for OpenSSH with strict host key checking: it makes the user's key
// and each VM's host key, gives the guest both, and keeps known_hosts and an ssh_config for the
// host's clients. The host makes the host keys, so they are known before the first connection.
type SSH struct {
	layout paths.Layout
	proxy  string // see openssh.Guest; %h is the VM's host name

	mu     sync.Mutex
	public map[string]string // VM id to its host key's public half
	shown  string            // what known_hosts holds
}

// NewSSH returns the capability. proxy is the shell command for ssh_config's ProxyCommand.
func NewSSH(layout paths.Layout, proxy string) *SSH {
	return &SSH{layout: layout, proxy: proxy, public: map[string]string{}}
}

// Name implements machine.Capability.
func (*SSH) Name() string { return "ssh" }

// PrepareHost implements machine.HostPreparer: both keys exist afterwards. They stay with the VM
// and the user; there is nothing to clean up after a run.
func (s *SSH) PrepareHost(_ context.Context, req machine.HostRequest) error {
	s.mu.Lock() // VMs that start together would each make the user's key
	defer s.mu.Unlock()
	if err := disk.Mkdir(s.layout.SSHDir()); err != nil {
		return fmt.Errorf("making the directory for ssh keys: %w", err)
	}
	if err := ensureKey(s.layout.SSHKey(), "banger"); err != nil {
		return err
	}
	return ensureKey(s.layout.VM(req.ID).HostKey(), req.Spec.Name+openssh.Domain)
}

// maxKey bounds a file with a key, bytes.
const maxKey = 64 << 10

// ContributeGuest implements machine.GuestContributor.
func (s *SSH) ContributeGuest(_ context.Context, req machine.GuestRequest) error {
	key, err := regular.Read(s.layout.VM(req.ID).HostKey(), maxKey)
	if err != nil {
		return fmt.Errorf("reading the VM's host key: %w", err)
	}
	user, err := regular.Read(s.layout.SSHKey()+".pub", maxKey)
	if err != nil {
		return fmt.Errorf("reading the user's key: %w", err)
	}
	req.Assume.HostKey = key
	req.Assume.AuthorizedKeys = append(req.Assume.AuthorizedKeys, strings.TrimSpace(string(user)))
	return nil
}

// RecordsChanged implements machine.Observer: known_hosts names exactly the VMs there are.
func (s *SSH) RecordsChanged(_ context.Context, vms []model.VM) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	b.WriteString("# Written by banger; changes are lost.\n")
	public := make(map[string]string, len(vms))
	var errs []error // one VM's key does not keep the others from being known
	for _, v := range vms {
		key, ok := s.public[v.ID]
		if !ok {
			data, err := regular.Read(s.layout.VM(v.ID).HostKey()+".pub", maxKey)
			if errors.Is(err, fs.ErrNotExist) {
				continue // it has never been started
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("reading the host key of %s: %w", v.Spec.Name, err))
				continue
			}
			key = hostKeyFields(data)
		}
		public[v.ID] = key
		fmt.Fprintf(&b, "%s%s %s\n", v.Spec.Name, openssh.Domain, key)
	}
	s.public = public
	if b.String() != s.shown {
		if err := s.writeClientFiles(b.String()); err != nil {
			return errors.Join(append(errs, err)...)
		}
		s.shown = b.String()
	}
	return errors.Join(errs...)
}

// hostKeyFields is "type base64" of a public key file, without its comment.
func hostKeyFields(line []byte) string {
	fields := bytes.Fields(line)
	return string(bytes.Join(fields[:min(len(fields), 2)], []byte(" ")))
}

func (s *SSH) writeClientFiles(knownHosts string) error {
	if err := disk.Mkdir(s.layout.SSHDir()); err != nil {
		return fmt.Errorf("making the directory for ssh files: %w", err)
	}
	guest := openssh.Guest{Proxy: s.proxy, Key: s.layout.SSHKey(), KnownHosts: s.layout.KnownHosts()}
	return errors.Join(
		replaceFile(s.layout.KnownHosts(), []byte(knownHosts)),
		replaceFile(s.layout.SSHConfig(), []byte(guest.Config())),
	)
}

// ensureKey makes an Ed25519 key pair at path and path.pub in OpenSSH's formats. The private half
// appears last, so that it is never there without the public one.
func ensureKey(path, comment string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("making key %s: %w", path, err)
	}
	block, err := ssh.MarshalPrivateKey(priv, comment)
	if err != nil {
		return fmt.Errorf("making key %s: %w", path, err)
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		return fmt.Errorf("making key %s: %w", path, err)
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(sshPub))) + " " + comment + "\n"
	if err := replaceFile(path+".pub", []byte(line)); err != nil {
		return err
	}
	return replaceFile(path, pem.EncodeToMemory(block))
}

// replaceFile writes a private file by a temporary name and a rename, so that readers see the old
// content or the new one.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*") // mode 0600
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync() // an empty key after a power loss would be taken for one
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
