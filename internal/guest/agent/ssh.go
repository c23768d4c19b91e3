package agent

import (
	"context"
	"log/slog"
	"net"

	"golang.org/x/crypto/ssh"

	"banger/internal/guest/agent/proc"
	"banger/internal/guest/agent/sshd"
	"banger/internal/guest/proto"
)

// sftpName is argv[0] of the agent as the server of the sftp subsystem.
const sftpName = "banger-sftp"

// sshService serves SSH.
type sshService struct {
	log      *slog.Logger
	commands commands
}

// ssh serves one SSH connection.
func (s *sshService) ssh(conn net.Conn) {
	id := s.commands.settings.get()
	key, err := ssh.ParsePrivateKey(id.HostKey)
	if err != nil {
		s.log.Error("no ssh without a host key", "error", err)
		conn.Close()
		return
	}
	runner := s.commands.runner()
	err = sshd.Serve(context.Background(), conn, sshd.Config{
		HostKey:        key,
		AuthorizedKeys: func() []string { return id.AuthorizedKeys },
		Lookup:         lookupAccount,
		Starter:        sshStarter{runner},
		SFTP:           []string{"/proc/self/exe", sftpName},
		Log:            s.log,
	})
	if err != nil {
		s.log.Debug("ssh", "error", err)
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
