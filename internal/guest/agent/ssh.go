package agent

import (
	"context"
	"net"

	"golang.org/x/crypto/ssh"

	"banger/internal/guest/agent/proc"
	"banger/internal/guest/agent/sshd"
	"banger/internal/guest/proto"
)

// sftpName is argv[0] of the agent as the server of the sftp subsystem.
const sftpName = "banger-sftp"

// ssh serves one SSH connection.
func (a *agent) ssh(conn net.Conn) {
	a.mu.Lock()
	id := a.identity
	a.mu.Unlock()
	key, err := ssh.ParsePrivateKey(id.HostKey)
	if err != nil {
		a.log.Error("no ssh without a host key", "error", err)
		conn.Close()
		return
	}
	runner := a.runner()
	err = sshd.Serve(context.Background(), conn, sshd.Config{
		HostKey:        key,
		AuthorizedKeys: func() []string { return id.AuthorizedKeys },
		Lookup:         lookupAccount,
		Starter:        sshStarter{runner},
		SFTP:           []string{"/proc/self/exe", sftpName},
		Log:            a.log,
	})
	if err != nil {
		a.log.Debug("ssh", "error", err)
	}
}

func lookupAccount(user string) (sshd.Account, error) {
	u, err := proc.LookupUser("/", user)
	if err != nil {
		return sshd.Account{}, err
	}
	account := sshd.Account{Name: u.Name, UID: int(u.UID), GID: int(u.GID), Home: u.Home, Shell: u.Shell}
	for _, g := range u.Groups {
		account.Groups = append(account.Groups, int(g))
	}
	return account, nil
}

// sshStarter starts the SSH server's commands in the same way as exec does.
type sshStarter struct{ *proc.Runner }

func (s sshStarter) Start(req proto.ExecRequest, streams sshd.Streams) (sshd.Process, error) {
	p, err := s.Runner.Start(req, proc.Streams(streams))
	if err != nil {
		return nil, err
	}
	return p, nil
}
