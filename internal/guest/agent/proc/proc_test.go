package proc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/proto"
)

func newRunner(t *testing.T) *Runner {
	table := NewTable(slog.New(slog.DiscardHandler))
	t.Cleanup(table.Close)
	user := ""
	if uid := os.Getuid(); uid != 0 {
		user = fmt.Sprint(uid)
	}
	return &Runner{Table: table, User: user, Env: []string{"PATH=" + os.Getenv("PATH")}}
}

// run runs a command to its end.
func run(t *testing.T, r *Runner, req proto.ExecRequest, stdin io.Reader) (proto.Exit, string, string) {
	t.Helper()
	var out, errOut bytes.Buffer
	req.Stdin = stdin != nil
	p, err := r.Start(req, Streams{Stdin: stdin, Stdout: &out, Stderr: &errOut})
	if err != nil {
		t.Fatal(err)
	}
	exit := p.Wait()
	return exit, out.String(), errOut.String()
}

func TestStart(t *testing.T) {
	r := newRunner(t)
	big := strings.Repeat("0123456789abcdef", 1<<16)
	for name, tt := range map[string]struct {
		req    proto.ExecRequest
		stdin  io.Reader
		exit   proto.Exit
		stdout string
		stderr string
	}{
		"both outputs": {req: proto.ExecRequest{Argv: []string{"sh", "-c", "echo a; echo b >&2; exit 3"}}, exit: proto.Exit{Code: 3}, stdout: "a\n", stderr: "b\n"},
		"signal":       {req: proto.ExecRequest{Argv: []string{"sh", "-c", "kill -TERM $$"}}, exit: proto.Exit{Code: 143, Signal: "SIGTERM"}},
		"input":        {req: proto.ExecRequest{Argv: []string{"cat"}}, stdin: strings.NewReader(big), stdout: big},
		"no input":     {req: proto.ExecRequest{Argv: []string{"cat"}}},
		"much output":  {req: proto.ExecRequest{Argv: []string{"sh", "-c", "yes | head -c 3000000 | wc -c; yes | head -c 1000000 >&2"}}, stdout: "3000000\n", stderr: strings.Repeat("y\n", 500_000)},
		"unread input": {req: proto.ExecRequest{Argv: []string{"true"}}, stdin: strings.NewReader(big)},
		"env":          {req: proto.ExecRequest{Argv: []string{"sh", "-c", "echo $A"}, Env: []string{"A=1", "A=2", "broken", "=x"}}, stdout: "2\n"},
		"workdir":      {req: proto.ExecRequest{Argv: []string{"pwd"}, Workdir: "/usr/bin"}, stdout: "/usr/bin\n"},
		"relative":     {req: proto.ExecRequest{Argv: []string{"./sh", "-c", "echo rel"}, Workdir: "/bin"}, stdout: "rel\n"},
		"own session":  {req: proto.ExecRequest{Argv: []string{"sh", "-c", "test $(ps -o sid= -p $$) = $$ && echo yes"}}, stdout: "yes\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			exit, out, errOut := run(t, r, tt.req, tt.stdin)
			if exit != tt.exit || out != tt.stdout || errOut != tt.stderr {
				t.Errorf("the command ended with %+v and wrote %.100q and %.100q", exit, out, errOut)
			}
		})
	}
}

func TestStartRefuses(t *testing.T) {
	r := newRunner(t)
	dir := t.TempDir()
	plain, script := filepath.Join(dir, "plain"), filepath.Join(dir, "script")
	os.WriteFile(plain, []byte("x"), 0o644)
	os.WriteFile(script, []byte("#!/no/such/interpreter\n"), 0o755)
	for name, tt := range map[string]struct {
		req  proto.ExecRequest
		code int
		is   error
		kind fault.Kind
	}{
		"unknown":        {req: proto.ExecRequest{Argv: []string{"no-such-command"}}, code: 127, is: fs.ErrNotExist},
		"empty name":     {req: proto.ExecRequest{Argv: []string{""}}, code: 127, is: fs.ErrNotExist},
		"no file":        {req: proto.ExecRequest{Argv: []string{"/no/such"}}, code: 127, is: fs.ErrNotExist},
		"directory":      {req: proto.ExecRequest{Argv: []string{dir}}, code: 126},
		"not executable": {req: proto.ExecRequest{Argv: []string{plain}}, code: 126, is: fs.ErrPermission},
		"in PATH":        {req: proto.ExecRequest{Argv: []string{"plain"}, Env: []string{"PATH=/no:" + dir}}, code: 126, is: fs.ErrPermission},
		"interpreter":    {req: proto.ExecRequest{Argv: []string{script}}, code: 127, is: fs.ErrNotExist},
		"workdir":        {req: proto.ExecRequest{Argv: []string{"true"}, Workdir: "/no/such"}, code: 126, is: fs.ErrNotExist},
		"file as dir":    {req: proto.ExecRequest{Argv: []string{"true"}, Workdir: plain}, code: 126},
		"relative dir":   {req: proto.ExecRequest{Argv: []string{"true"}, Workdir: "x"}, kind: fault.Invalid},
		"user":           {req: proto.ExecRequest{Argv: []string{"true"}, User: "no-such-user"}, kind: fault.Invalid},
		"group":          {req: proto.ExecRequest{Argv: []string{"true"}, User: "0:no-such-group"}, kind: fault.Invalid},
		"NUL":            {req: proto.ExecRequest{Argv: []string{"true", "a\x00"}}, kind: fault.Invalid},
		"too much":       {req: proto.ExecRequest{Argv: []string{"true"}, Env: []string{"A=" + strings.Repeat("x", MaxEnv)}}, kind: fault.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			for _, tty := range []bool{false, true} {
				tt.req.TTY = tty
				_, err := r.Start(tt.req, Streams{})
				var start *StartError
				switch {
				case tt.kind != "":
					if fault.KindOf(err) != tt.kind {
						t.Errorf("starting returned %v, want kind %s", err, tt.kind)
					}
				case !errors.As(err, &start) || start.Code != tt.code || tt.is != nil && !errors.Is(err, tt.is):
					t.Errorf("starting returned %v, want exit status %d", err, tt.code)
				}
			}
		})
	}
}

// TestBackground: a daemon that keeps the output open does not delay the caller, and the command's
// own output is complete.
func TestBackground(t *testing.T) {
	r := newRunner(t)
	var out slow
	p, err := r.Start(proto.ExecRequest{Argv: []string{"sh", "-c", "sleep 60 & head -c 60000 /dev/zero; echo end"}}, Streams{Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	p.Wait()
	if got := out.buf.String(); len(got) != 60004 || !strings.HasSuffix(got, "end\n") {
		t.Errorf("%d bytes of output came, want all", len(got))
	}
}

// slow reads slowly, so that the command ends long before its output is read.
type slow struct{ buf bytes.Buffer }

func (s *slow) Write(p []byte) (int, error) {
	<-time.After(50 * time.Millisecond)
	return s.buf.Write(p)
}

// TestBrokenOutput: a command whose output nobody reads gets SIGPIPE.
func TestBrokenOutput(t *testing.T) {
	r := newRunner(t)
	p, err := r.Start(proto.ExecRequest{Argv: []string{"yes"}}, Streams{Stdout: broken{}})
	if err != nil {
		t.Fatal(err)
	}
	if exit := p.Wait(); exit.Signal != "SIGPIPE" {
		t.Errorf("a command whose output nobody reads ended with %+v, want SIGPIPE", exit)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("nobody reads") }

func TestSignals(t *testing.T) {
	r := newRunner(t)
	pr, pw := io.Pipe()
	p, err := r.Start(proto.ExecRequest{Argv: []string{"sh", "-c", "trap 'exit 9' USR1; echo ready; while :; do sleep 0.02; done"}}, Streams{Stdout: pw})
	if err != nil {
		t.Fatal(err)
	}
	io.ReadFull(pr, make([]byte, len("ready\n")))
	for _, bad := range []string{"", "SIGNONSENSE", "9999", strings.Repeat("x", 1000)} {
		if p.Signal(bad) == nil {
			t.Errorf("signal %q was sent", bad)
		}
	}
	if err := p.Signal("usr1"); err != nil {
		t.Error(err)
	}
	if exit := p.Wait(); exit.Code != 9 {
		t.Errorf("a command that traps the signal ended with %+v, want status 9", exit)
	}
	if err := p.Signal("SIGKILL"); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a signal after the end: %v", err)
	}
	p.Hangup()
}

func TestHangup(t *testing.T) {
	r := newRunner(t)
	p, err := r.Start(proto.ExecRequest{Argv: []string{"sleep", "60"}}, Streams{})
	if err != nil {
		t.Fatal(err)
	}
	p.Hangup()
	if exit := p.Wait(); exit.Signal != "SIGHUP" {
		t.Errorf("hanging up ended the command with %+v, want SIGHUP", exit)
	}
}

func TestTerminal(t *testing.T) {
	r := newRunner(t)
	var out bytes.Buffer
	p, err := r.Start(proto.ExecRequest{
		Argv: []string{"sh", "-c", "tty; stty size; echo err >&2; exit 4"}, TTY: true, Size: &proto.Size{Rows: 12, Cols: 34},
	}, Streams{Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	exit := p.Wait()
	if got := out.String(); exit.Code != 4 || !strings.HasPrefix(got, "/dev/pts/") || !strings.HasSuffix(got, "\r\n12 34\r\nerr\r\n") {
		t.Errorf("a command on a terminal ended with %+v and wrote %q", exit, got)
	}
	if err := p.Resize(proto.Size{Rows: 1, Cols: 1}); err != nil {
		t.Errorf("resizing after the end: %v", err)
	}
}

func TestManyAtOnce(t *testing.T) {
	r := newRunner(t)
	for i := range 30 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			exit, out, _ := run(t, r, proto.ExecRequest{Argv: []string{"sh", "-c", fmt.Sprintf("echo %d; exit %d", i, i)}}, nil)
			if exit.Code != i || out != fmt.Sprintln(i) {
				t.Errorf("command %d ended with %+v and wrote %q", i, exit, out)
			}
		})
	}
}

const (
	passwd = "root:x:0:0:root:/root:/bin/bash\nbad line\nada:x:1000:1001:Ada,,,:/home/ada:\nnum:x:notanumber:1:::\nmax:x:4294967295:0:::/\n"
	groups = "root:x:0:\nada:x:1001:\nwheel:x:10:root,ada\nusers:x:100:adam,ada\nwheel2:x:10:ada\n"
)

func database(t testing.TB, passwd, group string) string {
	root := t.TempDir()
	os.Mkdir(filepath.Join(root, "etc"), 0o755)
	os.WriteFile(filepath.Join(root, "etc/passwd"), []byte(passwd), 0o644)
	os.WriteFile(filepath.Join(root, "etc/group"), []byte(group), 0o644)
	return root
}

func TestLookupUser(t *testing.T) {
	full := database(t, passwd, groups)
	empty := t.TempDir()
	for _, tt := range []struct {
		root, spec string
		want       User
		err        error
	}{
		{full, "", User{Name: "root", Groups: []uint32{0, 10}, Home: "/root", Shell: "/bin/bash"}, nil},
		{full, "ada", User{Name: "ada", UID: 1000, GID: 1001, Groups: []uint32{1001, 10, 100}, Home: "/home/ada"}, nil},
		{full, "1000", User{Name: "ada", UID: 1000, GID: 1001, Groups: []uint32{1001, 10, 100}, Home: "/home/ada"}, nil},
		{full, "ada:wheel", User{Name: "ada", UID: 1000, GID: 10, Groups: []uint32{10, 100}, Home: "/home/ada"}, nil},
		{full, "ada:7", User{Name: "ada", UID: 1000, GID: 7, Groups: []uint32{7, 10, 100}, Home: "/home/ada"}, nil},
		{full, "4711", User{UID: 4711, Home: "/"}, nil},
		{full, "4711:4712", User{UID: 4711, GID: 4712, Home: "/"}, nil},
		{full, "eve", User{}, ErrNoUser},
		{full, "ada:nogroup", User{}, ErrNoUser},
		{full, "-1", User{}, ErrNoUser},
		{full, "4294967295", User{}, ErrNoUser},
		{full, "max", User{}, ErrNoUser},
		{empty, "", User{Name: "root", Groups: []uint32{0}, Home: "/root"}, nil},
		{empty, "root", User{Name: "root", Groups: []uint32{0}, Home: "/root"}, nil},
		{empty, "5:6", User{UID: 5, GID: 6, Home: "/"}, nil},
		{empty, "ada", User{}, ErrNoUser},
	} {
		got, err := LookupUser(tt.root, tt.spec)
		if !errors.Is(err, tt.err) {
			t.Errorf("looking up %q returned %v, want %v", tt.spec, err, tt.err)
			continue
		}
		if err == nil && (got.Name != tt.want.Name || got.UID != tt.want.UID || got.GID != tt.want.GID || got.Home != tt.want.Home ||
			got.Shell != tt.want.Shell || !slices.Equal(got.Groups, tt.want.Groups)) {
			t.Errorf("the user %q is %+v, want %+v", tt.spec, got, tt.want)
		}
	}
}

// TestHostileDatabase: a user database that is no regular file is refused without waiting.
func TestHostileDatabase(t *testing.T) {
	root := t.TempDir()
	os.MkdirAll(filepath.Join(root, "etc/passwd"), 0o755)
	if _, err := LookupUser(root, "ada"); err == nil || errors.Is(err, ErrNoUser) {
		t.Errorf("a directory as the database returned %v, want a read error", err)
	}
	pipe := t.TempDir()
	os.MkdirAll(filepath.Join(pipe, "etc"), 0o755)
	syscall.Mkfifo(filepath.Join(pipe, "etc/passwd"), 0o644)
	if _, err := LookupUser(pipe, "ada"); err == nil || errors.Is(err, ErrNoUser) {
		t.Errorf("a pipe as the database returned %v, want a read error", err)
	}
	huge := database(t, strings.Repeat("x", 3<<20)+"\nada:x:1:1:::\n", "")
	if _, err := LookupUser(huge, "ada"); !errors.Is(err, ErrNoUser) {
		t.Errorf("an entry past the bound of the database returned %v, want ErrNoUser", err)
	}
	long := database(t, "eve:"+strings.Repeat("x", 20<<10)+"\nada:x:1:1::/h:/s\n", "")
	if u, err := LookupUser(long, "ada"); err != nil || u.UID != 1 {
		t.Errorf("an entry after a line that is too long is %+v, %v", u, err)
	}
}

func FuzzLookupUser(f *testing.F) {
	f.Add(passwd, groups, "ada:wheel")
	f.Add("", "", "0")
	f.Add("a:b", "c:d:e", ":")
	f.Fuzz(func(t *testing.T, passwd, group, spec string) {
		u, err := LookupUser(database(t, passwd, group), spec)
		if err == nil && (u.UID == ^uint32(0) || u.GID == ^uint32(0) || len(u.Groups) > maxGroups) {
			t.Errorf("the database gives the impossible user %+v", u)
		}
	})
}
