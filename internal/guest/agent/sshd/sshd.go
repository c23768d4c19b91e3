// Package sshd is the SSH server that the agent serves on any net.Conn. With it ssh, scp, sftp,
// rsync, git and editors work in images without an sshd. It speaks RFC 4251 to 4254 with
// golang.org/x/crypto/ssh, and OpenSSH's extensions (PROTOCOL in OpenSSH's source).
//
// # Permissions
//
// One key is enough for every user of the image, root included: its holder owns the machine. The
// guest's own programs do not hold the key, so permissions within the guest are kept apart.
// Commands run as the requested user, sftp is a process of that user, and sockets are made and
// reached with that user's permissions (asUser).
//
// sftp is a process because permissions belong to a process. It starts as root and then drops root.
// It cannot start as the user: the agent's file has no path in the image but /proc/self/exe, and a
// process that has just changed its user may not follow that link (proc(5)).
//
// # Vocabulary
//
// A connection is one Serve. It carries channels: sessions (one command, shell or subsystem each)
// and forwarded byte streams. A Starter runs commands. This package starts no process itself,
// because as process 1 the agent has to reap all children in one place.
package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"banger/internal/guest/proto"
)

// Bounds of one connection.
const (
	// LoginTime is how long a client may take to authenticate (sshd_config(5), LoginGraceTime). A
	// person may have to type a passphrase.
	LoginTime = 2 * time.Minute
	// maxAuthTries is higher than OpenSSH's 6, because every key of the user's agent counts as a
	// try. Guessing keys is hopeless anyway.
	maxAuthTries = 20
	maxChannels  = 512      // open at a time; a browser behind `ssh -D` has dozens
	maxListeners = 64       // remote forwards at a time
	maxEnvVars   = 128      // of a session
	maxEnvBytes  = 64 << 10 // of a session
	maxCommand   = 128 << 10
	dialTime     = 30 * time.Second // for the far end of a forward
)

// version is the server's name (RFC 4253, section 4.2). OpenSSH's client sends eow@openssh.com only
// if it begins with OpenSSH. Without that message `ssh vm yes | head` would never end.
const version = "SSH-2.0-OpenSSH_compatible banger"

// Config configures a server. HostKey, AuthorizedKeys, Lookup and Starter are required.
type Config struct {
	HostKey ssh.Signer
	// AuthorizedKeys returns the lines of an authorized_keys file, at every login. Lines with
	// options are ignored, because this server would not enforce their restrictions.
	AuthorizedKeys func() []string
	// Lookup finds a user of the image. An error refuses the login.
	Lookup  func(user string) (Account, error)
	Starter Starter
	// SFTP is the command that serves the sftp subsystem. The flags of SFTPMain are appended.
	// Empty: no sftp.
	SFTP []string
	// Dial connects to an address for `ssh -L` and `-D`; nil means a net.Dialer.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Listen listens on a TCP address for `ssh -R`; nil means net.Listen.
	Listen func(ctx context.Context, address string) (net.Listener, error)
	Log    *slog.Logger
}

// Account is a user of the image.
type Account struct {
	Name     string
	UID, GID int
	Groups   []int  // supplementary
	Home     string // where sessions start; / if there is no such directory
	Shell    string // runs command lines; /bin/sh if it is empty or missing
}

// Starter runs commands.
type Starter interface {
	// Start begins the command in req. Output goes to s until the command has ended and all of it
	// was read. After an error nothing runs; fs.ErrNotExist or exec.ErrNotFound mean that there is
	// no such program.
	Start(req proto.ExecRequest, s Streams) (Process, error)
}

// Streams holds a command's standard streams. After a failing write the Starter closes its end, so
// that the command gets SIGPIPE. Stdin may stay blocked in Read until the session ends.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Process is a running command. Its methods may be called concurrently and after its end.
type Process interface {
	// Wait returns when the command has ended and its output was written.
	Wait() proto.Exit
	// Signal sends a signal, such as "SIGINT", to the command's process group.
	Signal(name string) error
	// Resize changes the terminal's size.
	Resize(proto.Size) error
}

// Serve speaks SSH on conn until the client leaves or ctx ends, and closes conn. It closes the
// connection's listeners and sends SIGHUP to commands that still run. The client's leaving is no
// error.
func Serve(ctx context.Context, conn net.Conn, cfg Config) error {
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	cfg = cfg.withDefaults()

	conn.SetDeadline(time.Now().Add(LoginTime))
	sc, channels, requests, err := ssh.NewServerConn(conn, cfg.server())
	if err != nil {
		return fmt.Errorf("logging in by ssh: %w", err)
	}
	conn.SetDeadline(time.Time{})

	account := sc.Permissions.ExtraData[accountKey{}].(Account)
	c := &connection{
		cfg: cfg, ssh: sc, account: account, ctx: ctx,
		log:       cfg.Log.With("user", account.Name),
		slots:     make(chan struct{}, maxChannels),
		listeners: map[string]net.Listener{},
	}
	c.log.Debug("ssh login", "client", string(sc.ClientVersion()))
	c.tasks.Go(func() { c.serveRequests(requests) })
	for ch := range channels {
		c.serveChannel(ch)
	}
	cancel()
	c.closeListeners()
	c.tasks.Wait()
	if err := sc.Wait(); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		c.log.Debug("ssh connection ended", "error", err)
	}
	return nil
}

func (cfg Config) withDefaults() Config {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Dial == nil {
		cfg.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", address)
		}
	}
	if cfg.Listen == nil {
		cfg.Listen = func(ctx context.Context, address string) (net.Listener, error) {
			var l net.ListenConfig
			return l.Listen(ctx, "tcp", address)
		}
	}
	return cfg
}

// connection is the state of one client.
type connection struct {
	cfg     Config
	ssh     *ssh.ServerConn
	account Account
	ctx     context.Context // ends with the connection
	log     *slog.Logger

	tasks sync.WaitGroup // all tasks that Serve waits for
	slots chan struct{}  // holds an element for each open channel

	mu sync.Mutex
	// listeners is keyed by network and requested address. It is nil after the connection's end.
	listeners map[string]net.Listener
	agentSock string // SSH_AUTH_SOCK of sessions that asked for it
}

// serveChannel begins to serve a channel that the client opens.
func (c *connection) serveChannel(ch ssh.NewChannel) {
	var serve func(ssh.NewChannel)
	switch ch.ChannelType() {
	case "session":
		serve = c.serveSession
	case "direct-tcpip":
		serve = c.serveDirectTCP
	case "direct-streamlocal@openssh.com":
		serve = c.serveDirectUnix
	default:
		ch.Reject(ssh.UnknownChannelType, "no channels of this type")
		return
	}
	if !c.acquire() {
		ch.Reject(ssh.ResourceShortage, "too many channels")
		return
	}
	c.tasks.Go(func() {
		defer c.release()
		serve(ch)
	})
}

// acquire takes a channel's slot. It reports whether one was free.
func (c *connection) acquire() bool {
	select {
	case c.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func (c *connection) release() { <-c.slots }

// serveRequests answers requests that belong to no channel, until the connection ends. It does not
// know no-more-sessions@openssh.com: the library delivers channels and requests separately, so
// their order is unknown.
func (c *connection) serveRequests(requests <-chan *ssh.Request) {
	for req := range requests {
		ok, reply := false, []byte(nil)
		switch req.Type {
		case "keepalive@openssh.com":
			ok = true
		case "tcpip-forward":
			ok, reply = c.forwardTCP(req.Payload)
		case "cancel-tcpip-forward":
			ok = c.cancelTCP(req.Payload)
		case "streamlocal-forward@openssh.com":
			ok = c.forwardUnix(req.Payload)
		case "cancel-streamlocal-forward@openssh.com":
			ok = c.cancelUnix(req.Payload)
		}
		if req.WantReply {
			req.Reply(ok, reply)
		}
	}
}
