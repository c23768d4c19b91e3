package capability

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/testkit"
	"banger/internal/vmm"
)

// What each capability implements is found by asking, so a method whose signature drifts would be
// forgotten silently.
var (
	_ machine.MachineContributor = UserNetwork{}
	_ machine.NetworkContributor = UserNetwork{}
	_ machine.HostPreparer       = WorkDisk{}
	_ machine.Cleaner            = WorkDisk{}
	_ machine.MachineContributor = WorkDisk{}
	_ machine.GuestContributor   = WorkDisk{}
	_ machine.ConfigChanger      = WorkDisk{}
	_ machine.GuestContributor   = GitIdentity{}
	_ machine.Preflighter        = FileSync{}
	_ machine.GuestContributor   = FileSync{}
	_ machine.HostPreparer       = (*SSH)(nil)
	_ machine.GuestContributor   = (*SSH)(nil)
	_ machine.Observer           = (*SSH)(nil)
)

const id = "0123456789abcdef"

func subject(v model.VM) machine.Subject {
	return machine.Subject{ID: v.ID, Spec: v.Spec, Fresh: v.Fresh()}
}

func layout(t *testing.T) paths.Layout {
	l := paths.At(t.TempDir())
	if err := os.MkdirAll(l.VM(id).Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestUserNetwork(t *testing.T) {
	for mode, cards := range map[model.NetMode]int{model.NetUser: 1, model.NetNone: 0} {
		v := model.VM{ID: id, Spec: model.Spec{Net: mode}}
		var m vmm.Machine
		var networks []proto.Network
		UserNetwork{}.ContributeMachine(t.Context(), machine.MachineRequest{Subject: subject(v), Machine: &m})
		UserNetwork{}.ContributeNetwork(t.Context(), machine.NetworkRequest{Subject: subject(v), Networks: &networks})
		if len(m.NICs) != cards {
			t.Errorf("%s: the machine has the cards %+v", mode, m.NICs)
		}
		if len(networks) != cards {
			t.Errorf("%s: the guest is to configure %+v", mode, networks)
		}
		if cards == 1 && m.NICs[0].MAC.String() != "02:01:23:45:67:89" {
			t.Errorf("MAC %v", m.NICs[0].MAC)
		}
	}
}

func TestWorkDisk(t *testing.T) {
	testkit.RequireTool(t, "mkfs.ext4")
	l := layout(t)
	w := WorkDisk{Layout: l}
	v := model.VM{ID: id, Spec: model.Spec{WorkDiskSize: 64 * model.MiB}}
	prepare := func(want model.Bytes) {
		t.Helper()
		if err := w.PrepareHost(t.Context(), machine.HostRequest{Subject: subject(v)}); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(l.VM(id).WorkDisk()); err != nil || info.Size() != int64(want) {
			t.Fatalf("the disk: %v, %v; want %v", info, err, want)
		}
	}
	prepare(64 * model.MiB)
	if err := w.Cleanup(t.Context(), machine.CleanupRequest{Subject: subject(v)}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(l.VM(id).WorkDisk()); err == nil {
		t.Error("a disk that nobody has used stays after a failed first start")
	}
	prepare(64 * model.MiB)
	now := time.Now()
	v.Started = &now
	for range 2 {
		if err := w.Cleanup(t.Context(), machine.CleanupRequest{Subject: subject(v)}); err != nil {
			t.Fatal(err)
		}
	}
	next := v
	next.Spec.WorkDiskSize = 96 * model.MiB
	applied, err := w.ApplyConfigChange(t.Context(), machine.ChangeRequest{Old: v, New: next})
	if err != nil || !slices.Equal(applied, []string{"work_disk_size"}) {
		t.Errorf("growing: %v, %v", applied, err)
	}
	prepare(96 * model.MiB) // also when that could not be recorded
	v = next
	prepare(96 * model.MiB)

	var m vmm.Machine
	var doc proto.Assume
	w.ContributeMachine(t.Context(), machine.MachineRequest{Subject: subject(v), Machine: &m})
	w.ContributeGuest(t.Context(), machine.GuestRequest{Subject: subject(v), Assume: &doc})
	if len(m.Drives) != 1 || len(doc.Mounts) != 1 || m.Drives[0].Name != doc.Mounts[0].Serial || doc.Mounts[0].Target != "/root" {
		t.Errorf("%+v, %+v", m.Drives, doc.Mounts)
	}
	v.Spec.WorkDiskSize = 0
	m, doc = vmm.Machine{}, proto.Assume{}
	w.ContributeMachine(t.Context(), machine.MachineRequest{Subject: subject(v), Machine: &m})
	w.ContributeGuest(t.Context(), machine.GuestRequest{Subject: subject(v), Assume: &doc})
	if len(m.Drives)+len(doc.Mounts) != 0 {
		t.Error("a VM without a work disk got one")
	}
}

func TestGitIdentity(t *testing.T) {
	testkit.RequireTool(t, "git")
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv("GIT_CONFIG_GLOBAL", filepath.Join(home, ".gitconfig"))
	g := GitIdentity{Log: slog.New(slog.DiscardHandler)}
	var doc proto.Assume
	if err := g.ContributeGuest(t.Context(), machine.GuestRequest{Assume: &doc}); err != nil || len(doc.Files) != 0 {
		t.Errorf("without an identity: %+v, %v", doc.Files, err)
	}
	name := "A \"quoted\" \\ name\twith everything; # and more"
	for key, value := range map[string]string{"user.name": name, "user.email": "a@b.example", "user.signingkey": "secret"} {
		if out, err := exec.Command("git", "config", "--global", key, value).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if err := g.ContributeGuest(t.Context(), machine.GuestRequest{Assume: &doc}); err != nil || len(doc.Files) != 1 || !doc.Files[0].Keep {
		t.Fatalf("%+v, %v", doc.Files, err)
	}
	if strings.Contains(string(doc.Files[0].Data), "secret") {
		t.Error("more than the identity is passed on")
	}
	file := filepath.Join(home, "guest")
	if err := os.WriteFile(file, doc.Files[0].Data, 0o600); err != nil {
		t.Fatal(err)
	}
	// git itself reads it back
	out, err := exec.Command("git", "config", "-f", file, "user.name").Output()
	if err != nil || string(out) != name+"\n" {
		t.Errorf("git reads %q, %v", out, err)
	}
}

func TestFileSync(t *testing.T) {
	dir := t.TempDir()
	write := func(name, data string, mode fs.FileMode) string {
		path := filepath.Join(dir, name)
		os.MkdirAll(filepath.Dir(path), 0o700)
		if err := os.WriteFile(path, []byte(data), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := write("one", "1", 0o640)
	write("tree/a", "a", 0o600)
	write("tree/sub/b", "b", 0o700)
	os.Symlink("/etc/passwd", filepath.Join(dir, "tree/link"))
	missing := filepath.Join(dir, "missing")

	contribute := func(entries ...SyncEntry) ([]proto.File, error) {
		var doc proto.Assume
		s := FileSync{Entries: entries}
		if err := s.Preflight(t.Context(), machine.PreflightRequest{}); err != nil {
			return nil, err
		}
		err := s.ContributeGuest(t.Context(), machine.GuestRequest{Assume: &doc})
		return doc.Files, err
	}
	got, err := contribute(SyncEntry{Host: file, Guest: "/etc/one"}, SyncEntry{Host: filepath.Join(dir, "tree"), Guest: "/root/tree", Mode: 0o444},
		SyncEntry{Host: missing, Guest: "/x", Optional: true})
	if err != nil || len(got) != 3 {
		t.Fatalf("%+v, %v", got, err)
	}
	for i, want := range []struct {
		path, data string
		mode       uint32
	}{{"/etc/one", "1", 0o640}, {"/root/tree/a", "a", 0o444}, {"/root/tree/sub/b", "b", 0o444}} {
		if f := got[i]; f.Path != want.path || string(f.Data) != want.data || f.Mode != want.mode {
			t.Errorf("got %+v, want %+v", f, want)
		}
	}
	if _, err := contribute(SyncEntry{Host: missing, Guest: "/x"}); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), missing) {
		t.Errorf("a missing file: %v", err)
	}
	big := write("big", strings.Repeat("x", maxSync), 0o600)
	if _, err := contribute(SyncEntry{Host: big, Guest: "/x"}); err != nil {
		t.Errorf("just at the limit: %v", err)
	}
	if _, err := contribute(SyncEntry{Host: big, Guest: "/x"}, SyncEntry{Host: file, Guest: "/y"}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("over the limit: %v", err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, special := range []string{"/dev/zero", fifo} {
		if _, err := contribute(SyncEntry{Host: special, Guest: "/x"}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", special, err)
		}
	}
}

func TestSSHKeysAndClientFiles(t *testing.T) {
	testkit.RequireTool(t, "ssh-keygen")
	l := layout(t)
	s := NewSSH(l, "banger vm proxy %h")
	v := model.VM{ID: id, Spec: model.Spec{Name: "web"}}
	for range 2 { // the second finds the keys there
		if err := s.PrepareHost(t.Context(), machine.HostRequest{Subject: subject(v)}); err != nil {
			t.Fatal(err)
		}
	}
	var doc proto.Assume
	if err := s.ContributeGuest(t.Context(), machine.GuestRequest{Subject: subject(v), Assume: &doc}); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(doc.HostKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(doc.AuthorizedKeys[0])); err != nil {
		t.Errorf("authorized key %q: %v", doc.AuthorizedKeys, err)
	}
	for _, secret := range []string{l.SSHKey(), l.VM(id).HostKey()} {
		if info, err := os.Stat(secret); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", secret, info.Mode(), err)
		}
	}
	neverStarted := model.VM{ID: "fedcba9876543210", Spec: model.Spec{Name: "new"}}
	if err := s.RecordsChanged(t.Context(), []model.VM{v, neverStarted}); err != nil {
		t.Fatal(err)
	}
	// OpenSSH's own tool finds the key under the VM's host name.
	out, err := exec.Command("ssh-keygen", "-F", "web.vm", "-f", l.KnownHosts()).Output()
	if want := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))); err != nil || !strings.Contains(string(out), want) {
		t.Errorf("known_hosts holds %q, %v; want %s", out, err, want)
	}
	config, err := exec.Command("ssh", "-G", "-F", l.SSHConfig(), "web.vm").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"stricthostkeychecking true", "user root", "userknownhostsfile " + l.KnownHosts(), "proxycommand banger vm proxy %h"} {
		if !strings.Contains(string(config), want+"\n") {
			t.Errorf("ssh does not understand %q from the configuration", want)
		}
	}
	if err := s.RecordsChanged(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(l.KnownHosts()); strings.Contains(string(data), "web") {
		t.Error("a deleted VM is still known")
	}
}

func TestKeysAreWholeOrAbsent(t *testing.T) {
	l := layout(t)
	s := NewSSH(l, "")
	v := model.VM{ID: id, Spec: model.Spec{Name: "web"}}
	// A crash after the public half was written.
	if err := os.WriteFile(l.VM(id).HostKey()+".pub", []byte("ssh-ed25519 stale"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.PrepareHost(context.Background(), machine.HostRequest{Subject: subject(v)}); err != nil {
		t.Fatal(err)
	}
	key, _ := os.ReadFile(l.VM(id).HostKey())
	signer, err := ssh.ParsePrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pub, _ := os.ReadFile(l.VM(id).HostKey() + ".pub")
	if got, _, _, _, err := ssh.ParseAuthorizedKey(pub); err != nil || string(got.Marshal()) != string(signer.PublicKey().Marshal()) {
		t.Errorf("the halves do not fit: %s, %v", pub, err)
	}
}

// TestFirstStartsAtOnce make the user's key together: both halves are of one pair afterwards.
func TestFirstStartsAtOnce(t *testing.T) {
	l := layout(t)
	s := NewSSH(l, "proxy")
	var wg sync.WaitGroup
	for i := range 8 {
		v := model.VM{ID: fmt.Sprintf("%016x", i), Spec: model.Spec{Name: "a"}}
		if err := os.MkdirAll(l.VM(v.ID).Dir, 0o700); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if err := s.PrepareHost(t.Context(), machine.HostRequest{Subject: subject(v)}); err != nil {
				t.Error(err)
			}
			var doc proto.Assume
			if err := s.ContributeGuest(t.Context(), machine.GuestRequest{Subject: subject(v), Assume: &doc}); err != nil {
				t.Error(err)
				return
			}
			private, err := os.ReadFile(l.SSHKey())
			if err != nil {
				t.Error(err)
				return
			}
			key, err := ssh.ParsePrivateKey(private)
			if err != nil {
				t.Error(err)
				return
			}
			if line := string(ssh.MarshalAuthorizedKey(key.PublicKey())); !strings.HasPrefix(doc.AuthorizedKeys[0], strings.TrimSpace(line)) {
				t.Error("the guest lets in a key that is not the user's")
			}
		})
	}
	wg.Wait()
}

// TestFileSyncFollowsALinkToAFolder: configuration directories are links into a repository as often
// as not.
func TestFileSyncFollowsALinkToAFolder(t *testing.T) {
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real"), filepath.Join(dir, "link")
	for _, err := range []error{os.Mkdir(real, 0o700), os.WriteFile(filepath.Join(real, "rc"), []byte("x"), 0o600), os.Symlink(real, link)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var doc proto.Assume
	err := FileSync{Entries: []SyncEntry{{Host: link, Guest: "/root/conf"}}}.ContributeGuest(t.Context(), machine.GuestRequest{Assume: &doc})
	if err != nil || len(doc.Files) != 1 || doc.Files[0].Path != "/root/conf/rc" {
		t.Errorf("%+v, %v", doc.Files, err)
	}
}

// TestOneUnreadableHostKey leaves the other VMs reachable, and is told.
func TestOneUnreadableHostKey(t *testing.T) {
	l := layout(t)
	s := NewSSH(l, "proxy")
	good, bad := model.VM{ID: id, Spec: model.Spec{Name: "good"}}, model.VM{ID: "fedcba9876543210", Spec: model.Spec{Name: "bad"}}
	if err := os.MkdirAll(l.VM(bad.ID).HostKey()+".pub", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.PrepareHost(t.Context(), machine.HostRequest{Subject: subject(good)}); err != nil {
		t.Fatal(err)
	}
	if err := s.RecordsChanged(t.Context(), []model.VM{bad, good}); err == nil || !strings.Contains(err.Error(), "bad") {
		t.Errorf("got %v", err)
	}
	if known, err := os.ReadFile(l.KnownHosts()); err != nil || !strings.Contains(string(known), "good.vm ssh-ed25519 ") {
		t.Errorf("%s, %v", known, err)
	}
}

// TestContributorsArePure calls each contributor twice for a machine that never starts: it returns
// the same, and changes nothing below the home.
func TestContributorsArePure(t *testing.T) {
	testkit.RequireTool(t, "mkfs.ext4")
	l := layout(t)
	synced := filepath.Join(t.TempDir(), "synced")
	if err := os.WriteFile(synced, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	ssh := NewSSH(l, "proxy")
	v := model.VM{ID: id, Spec: model.Spec{Name: "a", WorkDiskSize: 64 * model.MiB, Net: model.NetUser}}
	if err := ssh.PrepareHost(t.Context(), machine.HostRequest{Subject: subject(v)}); err != nil {
		t.Fatal(err)
	}
	all := []machine.Capability{
		WorkDisk{Layout: l}, UserNetwork{}, ssh, GitIdentity{Log: slog.New(slog.DiscardHandler)},
		FileSync{Entries: []SyncEntry{{Host: synced, Guest: "/synced"}}},
	}
	home := filepath.Dir(l.State)
	for _, c := range all {
		before := listing(t, home)
		var machines [2]vmm.Machine
		var docs [2]proto.Assume
		for i := range 2 {
			if p, ok := c.(machine.MachineContributor); ok {
				if err := p.ContributeMachine(t.Context(), machine.MachineRequest{Subject: subject(v), Machine: &machines[i]}); err != nil {
					t.Errorf("%s: contributing to the machine: %v", c.Name(), err)
				}
			}
			if p, ok := c.(machine.GuestContributor); ok {
				if err := p.ContributeGuest(t.Context(), machine.GuestRequest{Subject: subject(v), Assume: &docs[i]}); err != nil {
					t.Errorf("%s: contributing to the guest: %v", c.Name(), err)
				}
			}
		}
		if !reflect.DeepEqual(machines[0], machines[1]) {
			t.Errorf("%s contributes %+v to the machine first and %+v then", c.Name(), machines[0], machines[1])
		}
		if !reflect.DeepEqual(docs[0], docs[1]) {
			t.Errorf("%s contributes %+v to the guest first and %+v then", c.Name(), docs[0], docs[1])
		}
		if after := listing(t, home); !slices.Equal(before, after) {
			t.Errorf("%s changed the home from %v to %v", c.Name(), before, after)
		}
	}
}

// listing names everything below a directory with its size and time.
func listing(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.Walk(dir, func(path string, info fs.FileInfo, err error) error {
		if err == nil {
			all = append(all, fmt.Sprint(path, info.Size(), info.ModTime()))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
