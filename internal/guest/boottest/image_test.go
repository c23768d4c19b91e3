package boottest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"banger/internal/fault"
	"banger/internal/guest"
	"banger/internal/guest/proto"
)

// TestBareImage: an image of one static program boots, without any directory, and SSH works in it.
func TestBareImage(t *testing.T) {
	p := requireParts(t)
	root := t.TempDir()
	run(t, "cp", busybox(t), filepath.Join(root, "cat"))
	m := p.start(t, disks{image: newImage(t, root), system: newDisk(t, "1G")})
	hostKey, public := newKey(t)
	userKey, userPublic := newKey(t)
	m.assume(func(doc *proto.Assume) {
		doc.HostKey = hostKey
		doc.AuthorizedKeys = []string{string(ssh.MarshalAuthorizedKey(userPublic))}
		doc.Networks = nil
	})
	var out, errOut bytes.Buffer
	exit, err := m.Exec(m.ctx(), proto.ExecRequest{Argv: []string{"/cat", "/etc/hostname"}}, guest.IO{Stdout: &out})
	if err != nil || exit.Code != 0 || out.String() != "quiet-otter\n" {
		t.Errorf("a command in a bare image ended with %+v, %v and wrote %q", exit, err, out.String())
	}
	exit, err = m.Exec(m.ctx(), proto.ExecRequest{TTY: true}, guest.IO{Stderr: &errOut})
	if err != nil || exit.Code != 127 || !strings.Contains(errOut.String(), "no shell") {
		t.Errorf("a shell where none is: %+v, %v, %q", exit, err, errOut.String())
	}

	conn, err := m.Upgrade(m.ctx(), "/v1/ssh")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(userKey)
	if err != nil {
		t.Fatal(err)
	}
	sc, chans, reqs, err := ssh.NewClientConn(conn, "vm", &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.FixedHostKey(public),
	})
	if err != nil {
		t.Fatal(err)
	}
	client := ssh.NewClient(sc, chans, reqs)
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.RequestSubsystem("sftp"); err != nil {
		t.Errorf("sftp, which needs nothing of the image's: %v", err)
	}
	client.Close()
	if _, err := m.PowerOff(m.ctx(), endGrace); err != nil {
		t.Error(err)
	}
	m.awaitEnd()
}

func newKey(t *testing.T) (private []byte, public ssh.PublicKey) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	public, err = ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(block), public
}

// TestBrokenAssume: a failed assume reports its reason, and the machine accepts no other identity.
func TestBrokenAssume(t *testing.T) {
	p := requireParts(t)
	m := p.start(t, disks{image: newImage(t, busyboxRoot(t)), system: newDisk(t, "1G")})
	doc := proto.Assume{Entropy: make([]byte, 32), Time: m.start, Hostname: "x", Root: proto.Root{Image: "image", System: "no-such"}}
	if _, err := m.Assume(m.ctx(), doc); err == nil || !strings.Contains(err.Error(), "no-such") {
		t.Errorf("a missing drive returned %v, want its name", err)
	}
	doc.Root.System = proto.SerialSystem
	if _, err := m.Assume(m.ctx(), doc); fault.KindOf(err) != fault.WrongState {
		t.Errorf("a second assume of a spoiled machine returned %v, want fault.WrongState", err)
	}
}
