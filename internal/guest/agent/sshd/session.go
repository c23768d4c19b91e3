package sshd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/crypto/ssh"

	"banger/internal/guest/proto"
)

// session is one command, shell or subsystem.
type session struct {
	*connection
	ch       ssh.Channel
	env      []string // NAME=VALUE
	size     int      // bytes in env
	term     *proto.Size
	proc     Process     // set once it is started
	noReader atomic.Bool // the client reads no more output

	ended chan struct{} // closed after the client was informed of the command's end
}

// serveSession serves a session until either side closes its channel.
func (c *connection) serveSession(nc ssh.NewChannel) {
	ch, requests, err := nc.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	s := &session{connection: c, ch: ch, ended: make(chan struct{})}
	for req := range requests {
		ok := s.request(req)
		if req.WantReply {
			req.Reply(ok, nil)
		}
	}
	// The requests end with the channel, so the command has ended or the client has left.
	if s.proc == nil {
		return
	}
	select {
	case <-s.ended:
	default:
		s.proc.Signal("SIGHUP")
	}
}

// request handles a request of a session (RFC 4254, section 6). It reports whether it succeeded.
func (s *session) request(req *ssh.Request) bool {
	switch req.Type {
	case "env":
		var m envRequest
		return ssh.Unmarshal(req.Payload, &m) == nil && s.setenv(m.Name, m.Value)
	case "pty-req":
		return s.openTerminal(req.Payload)
	case "window-change":
		var m windowChange
		return ssh.Unmarshal(req.Payload, &m) == nil && s.resize(m.Columns, m.Rows)
	case "auth-agent-req@openssh.com":
		return s.forwardAgent()
	case "shell":
		return s.start(nil)
	case "exec":
		var m execRequest
		if ssh.Unmarshal(req.Payload, &m) != nil || len(m.Command) > maxCommand {
			return false
		}
		return s.exec(m.Command)
	case "subsystem":
		var m subsystemRequest
		if ssh.Unmarshal(req.Payload, &m) != nil || m.Name != "sftp" || len(s.cfg.SFTP) == 0 {
			return false
		}
		return s.startSFTP()
	case "signal":
		var m signalRequest
		return ssh.Unmarshal(req.Payload, &m) == nil && s.proc != nil && s.proc.Signal("SIG"+m.Name) == nil
	case "eow@openssh.com": // the client's standard output is closed
		s.noReader.Store(true)
		return true
	case "keepalive@openssh.com":
		return true
	}
	return false
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// setenv accepts a variable. sshd restricts variables (AcceptEnv) because its users may be
// restricted. Here the user who logs in owns the machine.
func (s *session) setenv(name, value string) bool {
	s.size += len(name) + len(value) + 2
	if s.proc != nil || len(s.env) >= maxEnvVars || s.size > maxEnvBytes ||
		!envName.MatchString(name) || strings.ContainsRune(value, 0) {
		return false
	}
	s.env = append(s.env, name+"="+value)
	return true
}

// openTerminal notes that the command gets a terminal. The terminal keeps the kernel's modes.
func (s *session) openTerminal(payload []byte) bool {
	var m ptyRequest
	if ssh.Unmarshal(payload, &m) != nil || s.proc != nil || s.term != nil {
		return false
	}
	if m.Term != "" && !s.setenv("TERM", m.Term) {
		return false
	}
	s.term = &proto.Size{Rows: clamp(m.Rows), Cols: clamp(m.Columns)}
	return true
}

func (s *session) resize(columns, rows uint32) bool {
	size := proto.Size{Rows: clamp(rows), Cols: clamp(columns)}
	switch {
	case s.term == nil:
		return false
	case s.proc == nil:
		s.term = &size
		return true
	}
	return s.proc.Resize(size) == nil
}

func clamp(n uint32) uint16 { return uint16(min(n, 1<<16-1)) }

// exec runs a command line.
func (s *session) exec(line string) bool {
	argv, err := s.account.commandLine(line)
	if err != nil {
		return s.proc == nil && s.follow(unstarted{err})
	}
	return s.start(argv)
}

// start runs argv, or the login shell if it is empty.
func (s *session) start(argv []string) bool {
	// A connection without an address, as sshd shows it to programs that check for ssh.
	env := append(s.env, "SSH_CLIENT=UNKNOWN 65535 65535", "SSH_CONNECTION=UNKNOWN 65535 UNKNOWN 65535")
	if sock := s.agentSocket(); sock != "" {
		env = append(env, "SSH_AUTH_SOCK="+sock)
	}
	return s.run(proto.ExecRequest{
		Argv: argv, Env: env, User: s.ssh.User(), Workdir: s.account.workdir(),
		TTY: s.term != nil, Size: s.term, Stdin: true,
	})
}

// run starts the session's process. It also succeeds if nothing can be run: then the client reads
// the reason on standard error and gets a shell's exit status. The protocol's own failure has no
// reason.
func (s *session) run(req proto.ExecRequest) bool {
	if s.proc != nil {
		return false
	}
	proc, err := s.cfg.Starter.Start(req, Streams{
		Stdin:  s.ch,
		Stdout: outlet{s.ch, &s.noReader},
		Stderr: outlet{s.ch.Stderr(), &s.noReader},
	})
	if err != nil {
		s.log.Debug("starting a command for ssh", "argv", req.Argv, "error", err)
		proc = unstarted{err}
	}
	return s.follow(proc)
}

// follow reports proc's end to the client.
func (s *session) follow(proc Process) bool {
	s.proc = proc
	// This is not one of the connection's tasks: a command may outlive the connection.
	go func() {
		if u, ok := proc.(unstarted); ok {
			fmt.Fprintf(s.ch.Stderr(), "banger: %v\r\n", u.err)
		}
		exit := proc.Wait()
		if exit.Signal != "" {
			s.ch.SendRequest("exit-signal", false, ssh.Marshal(exitSignal{Name: strings.TrimPrefix(exit.Signal, "SIG")}))
		} else {
			s.ch.SendRequest("exit-status", false, ssh.Marshal(exitStatus{uint32(exit.Code)}))
		}
		s.ch.CloseWrite()
		close(s.ended)
		s.ch.Close()
	}()
	return true
}

// outlet passes on a command's output until the client wants no more.
type outlet struct {
	w        io.Writer
	noReader *atomic.Bool
}

func (o outlet) Write(p []byte) (int, error) {
	if o.noReader.Load() {
		return 0, io.ErrClosedPipe
	}
	return o.w.Write(p)
}

// unstarted stands for a process that could not be started because of err.
type unstarted struct{ err error }

func (u unstarted) Wait() proto.Exit {
	if errors.Is(u.err, fs.ErrNotExist) || errors.Is(u.err, exec.ErrNotFound) {
		return proto.Exit{Code: 127}
	}
	return proto.Exit{Code: 126}
}

func (u unstarted) Signal(string) error     { return os.ErrProcessDone }
func (u unstarted) Resize(proto.Size) error { return os.ErrProcessDone }

// commandLine returns the argv that runs a command line through the account's shell. If the image
// has no shell, the line is split into a program and its arguments, unless it needs a shell.
func (a Account) commandLine(line string) ([]string, error) {
	for _, shell := range []string{a.Shell, "/bin/sh"} {
		if info, err := os.Stat(shell); shell != "" && err == nil && info.Mode().IsRegular() {
			return []string{shell, "-c", line}, nil
		}
	}
	return plainWords(line)
}

// plainWords splits a line that holds nothing but words.
func plainWords(line string) ([]string, error) {
	words := strings.Fields(line)
	if len(words) == 0 || strings.ContainsAny(line, "|&;<>()$`\\\"'*?[\n") {
		return nil, fmt.Errorf("the image has no shell to run %.200q with; only a program and plain arguments can be run", line)
	}
	return words, nil
}

// workdir is where the account's sessions start.
func (a Account) workdir() string {
	if info, err := os.Stat(a.Home); err == nil && info.IsDir() {
		return a.Home
	}
	return "/"
}

// startSFTP runs the sftp server as a process of its own; see SFTPMain.
func (s *session) startSFTP() bool {
	a := s.account
	groups := make([]string, len(a.Groups))
	for i, g := range a.Groups {
		groups[i] = strconv.Itoa(g)
	}
	argv := append(append([]string(nil), s.cfg.SFTP...),
		"-uid", strconv.Itoa(a.UID), "-gid", strconv.Itoa(a.GID),
		"-groups", strings.Join(groups, ","), "-dir", a.workdir())
	return s.run(proto.ExecRequest{Argv: argv, User: "0:0", Workdir: "/", Stdin: true})
}
