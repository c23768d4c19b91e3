package sshd

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/crypto/ssh"
)

// serveDirectTCP connects a channel to a TCP address as seen from the guest: `ssh -L`, `-D`, `-W`.
func (c *connection) serveDirectTCP(nc ssh.NewChannel) {
	var m tcpChannel
	if ssh.Unmarshal(nc.ExtraData(), &m) != nil || m.Port > 65535 {
		nc.Reject(ssh.ConnectionFailed, "malformed address")
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, dialTime)
	defer cancel()
	conn, err := c.dialTCP(ctx, m.Host, strconv.Itoa(int(m.Port)))
	if err != nil {
		nc.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	accept(nc, conn)
}

// dialTCP resolves localhost itself (RFC 6761, section 6.3), because an image may have no
// /etc/hosts.
func (c *connection) dialTCP(ctx context.Context, host, port string) (net.Conn, error) {
	if host != "localhost" {
		return c.cfg.Dial(ctx, net.JoinHostPort(host, port))
	}
	conn, err := c.cfg.Dial(ctx, net.JoinHostPort("127.0.0.1", port))
	if err == nil {
		return conn, nil
	}
	if conn, err6 := c.cfg.Dial(ctx, net.JoinHostPort("::1", port)); err6 == nil {
		return conn, nil
	}
	return nil, err
}

// serveDirectUnix connects a channel to a unix socket of the guest: `ssh -L port:/path`.
func (c *connection) serveDirectUnix(nc ssh.NewChannel) {
	var m unixDirect
	if ssh.Unmarshal(nc.ExtraData(), &m) != nil || !filepath.IsAbs(m.Path) {
		nc.Reject(ssh.ConnectionFailed, "not an absolute path")
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, dialTime)
	defer cancel()
	var conn net.Conn
	err := asUser(c.account, func() (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, "unix", m.Path)
		return err
	})
	if err != nil {
		nc.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	accept(nc, conn)
}

// accept accepts a channel and joins it with conn.
func accept(nc ssh.NewChannel, conn net.Conn) {
	ch, requests, err := nc.Accept()
	if err != nil {
		conn.Close()
		return
	}
	join(ch, requests, conn)
}

// join copies both ways until both directions have ended or one side is gone, then closes both.
// Each direction ends separately, as with TCP.
func join(ch ssh.Channel, requests <-chan *ssh.Request, conn net.Conn) {
	var both sync.WaitGroup
	both.Go(func() {
		io.Copy(ch, conn)
		ch.CloseWrite()
	})
	both.Go(func() {
		io.Copy(conn, ch)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			half.CloseWrite()
		} else {
			conn.Close()
		}
	})
	gone := make(chan struct{})
	go func() {
		ssh.DiscardRequests(requests) // until the channel is closed
		conn.Close()
		close(gone)
	}()
	both.Wait()
	ch.Close()
	<-gone
}

// forwardTCP listens on a TCP address of the guest: `ssh -R`. An empty host means all addresses, as
// with sshd's GatewayPorts clientspecified. OpenSSH's client asks for localhost unless it is told
// otherwise.
func (c *connection) forwardTCP(payload []byte) (ok bool, reply []byte) {
	var m tcpForward
	if ssh.Unmarshal(payload, &m) != nil || m.Port > 65535 {
		return false, nil
	}
	host := m.Host
	if host == "localhost" {
		host = "127.0.0.1"
	}
	l, err := c.cfg.Listen(c.ctx, net.JoinHostPort(host, strconv.Itoa(int(m.Port))))
	if err != nil {
		c.log.Debug("listening for ssh", "error", err)
		return false, nil
	}
	port := m.Port
	if tcp, ok := l.Addr().(*net.TCPAddr); ok {
		port = uint32(tcp.Port)
	}
	opened := c.listen(tcpKey(m.Host, port), l, func(conn net.Conn) (string, []byte) {
		msg := tcpChannel{Host: m.Host, Port: port}
		if from, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
			msg.OriginHost, msg.OriginPort = from.IP.String(), uint32(from.Port)
		}
		return "forwarded-tcpip", ssh.Marshal(msg)
	})
	if opened && m.Port == 0 {
		reply = ssh.Marshal(tcpForwardReply{port})
	}
	return opened, reply
}

func (c *connection) cancelTCP(payload []byte) bool {
	var m tcpForward
	return ssh.Unmarshal(payload, &m) == nil && c.unlisten(tcpKey(m.Host, m.Port))
}

func tcpKey(host string, port uint32) string {
	return "tcp " + net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// forwardUnix listens on a unix socket of the guest: `ssh -R /path:…`. The socket is the user's.
func (c *connection) forwardUnix(payload []byte) bool {
	var m unixForward
	if ssh.Unmarshal(payload, &m) != nil || !filepath.IsAbs(m.Path) {
		return false
	}
	l, err := listenUnix(c.account, m.Path)
	if err != nil {
		c.log.Debug("listening for ssh", "error", err)
		return false
	}
	return c.listen("unix "+m.Path, l, func(net.Conn) (string, []byte) {
		return "forwarded-streamlocal@openssh.com", ssh.Marshal(unixForwarded{Path: m.Path})
	})
}

func (c *connection) cancelUnix(payload []byte) bool {
	var m unixForward
	return ssh.Unmarshal(payload, &m) == nil && c.unlisten("unix "+m.Path)
}

// userSocket is a unix socket in a directory that may be a user's. It is removed with that user's
// permissions. Otherwise the owner of the directory could make root remove another file.
type userSocket struct {
	*net.UnixListener
	account Account
	path    string
}

// listenUnix makes a unix socket with the account's permissions. Only the account may connect to
// it.
func listenUnix(a Account, path string) (net.Listener, error) {
	var l *net.UnixListener
	err := asUser(a, func() (err error) {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	return &userSocket{l, a, path}, nil
}

func (u *userSocket) Close() error {
	err := u.UnixListener.Close()
	if errors.Is(err, net.ErrClosed) {
		return err
	}
	return errors.Join(err, asUser(u.account, func() error { return os.Remove(u.path) }))
}

// listen accepts connections on l and opens a channel for each, with the header. It takes over l,
// which unlisten or the connection's end closes. It reports whether there was room.
func (c *connection) listen(key string, l net.Listener, header func(net.Conn) (kind string, extra []byte)) bool {
	c.mu.Lock()
	_, taken := c.listeners[key]
	if c.listeners == nil || taken || len(c.listeners) >= maxListeners {
		c.mu.Unlock()
		l.Close()
		return false
	}
	c.listeners[key] = l
	c.mu.Unlock()
	c.tasks.Go(func() {
		defer c.unlisten(key) // also if accepting fails
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if !c.acquire() {
				conn.Close()
				continue
			}
			c.tasks.Go(func() {
				defer c.release()
				kind, extra := header(conn)
				ch, requests, err := c.ssh.OpenChannel(kind, extra)
				if err != nil {
					conn.Close()
					return
				}
				join(ch, requests, conn)
			})
		}
	})
	return true
}

// unlisten closes a listener. It reports whether there was one.
func (c *connection) unlisten(key string) bool {
	c.mu.Lock()
	l, ok := c.listeners[key]
	delete(c.listeners, key)
	c.mu.Unlock()
	if ok {
		l.Close()
	}
	return ok
}

// closeListeners closes all listeners and prevents new ones.
func (c *connection) closeListeners() {
	c.mu.Lock()
	all := c.listeners
	c.listeners = nil
	c.mu.Unlock()
	for _, l := range all {
		l.Close()
	}
}
