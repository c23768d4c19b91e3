// Package sshd is the SSH server that the agent serves on any net.Conn, so that ssh, scp, sftp, rsync, git and
// editors work with images that have no sshd. It speaks RFC 4251 to 4254 by golang.org/x/crypto/ssh and OpenSSH's extensions
// to them (PROTOCOL in OpenSSH's source).
//
// # Who may do what
//
// One key is enough for any user of the image, root included: whoever holds it owns the machine. Rights within the guest
// are still kept apart, because the guest's own programs are not the holder of the key: commands run as the user that was asked
// for, sftp is a process of that user, and sockets are made and reached with that user's rights (see asUser).
//
// # Vocabulary
//
// A connection is one Serve. It carries channels: sessions (one command, shell or subsystem each) and forwarded
// byte streams. A Starter runs commands; this package never starts a process itself, because in the guest the agent may be process 1,
// which has to reap them all.
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
	// LoginTime is how long a client may take until it is authenticated: sshd_config(5), LoginGraceTime. A person may have to type a passphrase in it.
	LoginTime = 2 * time.Minute
	// maxAuthTries is above OpenSSH's 6: every key of the user's agent counts as a try, and guessing keys is hopeless anyway.
	maxAuthTries = 20
	maxChannels  = 512      // open at a time; a browser behind `ssh -D` has dozens
	maxListeners = 64       // remote forwards at a time
	maxEnvVars   = 128      // of a session
	maxEnvBytes  = 64 << 10 // of a session
	maxCommand   = 128 << 10
	dialTime     = 30 * time.Second // for the far end of a forward
)

// version is what the server calls itself (RFC 4253, section 4.2). Only to a server whose name begins with OpenSSH does the OpenSSH
// client send eow@openssh.com, without which `ssh vm yes | head` would never end.
const version = "SSH-2.0-OpenSSH_compatible banger"

// Config is what a server is made of. HostKey, AuthorizedKeys, Lookup and Starter are needed.
type Config struct {
	HostKey ssh.Signer
	// AuthorizedKeys returns the lines of an authorized_keys file. It is asked at every login. Lines with options are ignored, because
	// an option is a restriction that this server would not keep.
	AuthorizedKeys func() []string
	// Lookup finds a user of the image; an error refuses the login.
	Lookup  func(user string) (Account, error)
	Starter Starter
	// SFTP is the command that serves the sftp subsystem; the flags of SFTPMain are added to it. Empty: no sftp.
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
	Home     string // where sessions start; / is taken when there is no such folder
	Shell    string // what runs a command line; /bin/sh is taken when it is empty or missing
}

// Starter runs commands.
type Starter interface {
	// Start begins what req asks for. Output goes to s until the command has ended and all of it was read. An error means that
	// nothing runs; one that is fs.ErrNotExist or exec.ErrNotFound says that there is no such program.
	Start(req proto.ExecRequest, s Streams) (Process, error)
}

// Streams is where a command's standard streams come from and go to. A failing write tells the Starter that nobody reads any more: it closes
// its end, so that the command gets a SIGPIPE. Stdin may stay blocked in Read until the session ends.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Process is a running command. Its methods may be called at the same time and after its end.
type Process interface {
	// Wait returns when the command has ended and its output was written.
	Wait() proto.Exit
	// Signal sends a signal, such as "SIGINT", to the command's process group.
	Signal(name string) error
	// Resize tells the terminal's size.
	Resize(proto.Size) error
}

// Serve speaks SSH on conn until the client goes away or ctx ends, and closes conn. What the connection listened for is gone
// when it returns; commands that still run got a SIGHUP, as from a terminal that goes away, and are left to the Starter. An end
// by the client is no error.
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

// connection is one client's.
type connection struct {
	cfg     Config
	ssh     *ssh.ServerConn
	account Account
	ctx     context.Context // ends with the connection
	log     *slog.Logger

	tasks sync.WaitGroup // everything that Serve waits for
	slots chan struct{}  // one for each open channel

	mu        sync.Mutex
	listeners map[string]net.Listener // by network and address as asked for; nil after the connection's end
	agentSock string                  // SSH_AUTH_SOCK of sessions that asked for it
}

// serveChannel begins to serve a channel that the client wants to open.
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

// acquire takes a channel's slot if one is free.
func (c *connection) acquire() bool {
	select {
	case c.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func (c *connection) release() { <-c.slots }

// serveRequests answers the requests that belong to no channel, until the connection ends. no-more-sessions@openssh.com is not among
// them: the library delivers channels and requests apart, so it is not known which sessions came before it.
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
