package sshd

import (
	"net"
	"os"
	"path/filepath"
)

// forwardAgent makes the socket through which commands of this connection reach the client's
// ssh-agent (OpenSSH, PROTOCOL.agent; draft-ietf-sshm-ssh-agent). All sessions of a connection
// share it.
func (c *connection) forwardAgent() bool {
	if c.agentSocket() != "" {
		return true
	}
	dir, path, err := "", "", error(nil)
	err = asUser(c.account, func() error {
		dir, err = os.MkdirTemp("", "ssh-")
		path = filepath.Join(dir, "agent")
		return err
	})
	if err != nil {
		c.log.Debug("making a directory for the agent's socket", "error", err)
		return false
	}
	l, err := listenUnix(c.account, path)
	if err != nil {
		c.log.Debug("making the agent's socket", "error", err)
		asUser(c.account, func() error { return os.Remove(dir) })
		return false
	}
	opened := c.listen("agent", socketListener{l, c.account, dir}, func(net.Conn) (string, []byte) {
		return "auth-agent@openssh.com", nil
	})
	if opened {
		c.mu.Lock()
		c.agentSock = path
		c.mu.Unlock()
	}
	return opened || c.agentSocket() != ""
}

func (c *connection) agentSocket() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.agentSock
}

// socketListener is a listener that removes its directory when it closes.
type socketListener struct {
	net.Listener
	account Account
	dir     string
}

func (l socketListener) Close() error {
	err := l.Listener.Close()
	asUser(l.account, func() error { return os.Remove(l.dir) })
	return err
}
