package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"banger/internal/fault"
	"banger/internal/model"
)

func TestParseSSH(t *testing.T) {
	for _, c := range []struct {
		args string
		want sshCall
		ok   bool
		user bool
	}{
		{"web", sshCall{before: []string{}, name: "web", after: []string{}}, true, false},
		{"web.vm ls -l", sshCall{before: []string{}, name: "web", after: []string{"ls", "-l"}}, true, false},
		{"nobody@web", sshCall{before: []string{}, user: "nobody@", name: "web", after: []string{}}, true, true},
		{"-p 22 -vv -L1:h:2 -tto A=b web -N", sshCall{before: []string{"-p", "22", "-vv", "-L1:h:2", "-tto", "A=b"}, name: "web", after: []string{"-N"}}, true, false},
		{"-l root web", sshCall{before: []string{"-l", "root"}, name: "web", after: []string{}}, true, true},
		{"web -l root", sshCall{before: []string{}, name: "web", after: []string{"-l", "root"}}, true, true},
		{"web ls -l", sshCall{before: []string{}, name: "web", after: []string{"ls", "-l"}}, true, false},
		{"web -oUser=x", sshCall{before: []string{}, name: "web", after: []string{"-oUser=x"}}, true, true},
		{"-- web", sshCall{before: []string{"--"}, name: "web", after: []string{}}, true, false},
		{"-p", sshCall{before: []string{"-p"}}, false, false},
		{"-p 22", sshCall{before: []string{"-p", "22"}}, false, false},
		{"user@", sshCall{before: []string{}, user: "user@", after: []string{}}, false, true},
		{"--", sshCall{before: []string{"--"}}, false, false},
	} {
		got, ok := parseSSH(strings.Fields(c.args))
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q is parsed as %+v, want %+v", c.args, got, c.want)
		}
		if ok != c.ok {
			t.Errorf("%q names a VM: %v, want %v", c.args, ok, c.ok)
		}
		if got.namesUser() != c.user {
			t.Errorf("%q names a user: %v, want %v", c.args, got.namesUser(), c.user)
		}
	}
	if _, ok := parseSSH(nil); ok {
		t.Error("an empty list of arguments names a VM")
	}
}

func TestParsePlace(t *testing.T) {
	for in, want := range map[string]place{
		"file": {path: "file"}, "./a:b": {path: "./a:b"}, "/a:b": {path: "/a:b"}, ":x": {path: ":x"}, "-": {path: "-"},
		"web:/x": {vm: "web", path: "/x"}, "web.vm:/x:y": {vm: "web", path: "/x:y"}, "web:": {vm: "web"},
	} {
		if got := parsePlace(in); got != want {
			t.Errorf("%q is parsed as %+v, want %+v", in, got, want)
		}
	}
}

func TestFilters(t *testing.T) {
	vm := model.VM{State: model.Running, Spec: model.Spec{Name: "web-1", Image: "ghcr.io/org/app:v2", Net: model.NetNone, Labels: map[string]string{"team": "blue"}}}
	for filters, want := range map[string]bool{
		"": true, "state=running": true, "state=stopped": false, "state=stopped,state=running": true, "state=running,name=db": false,
		"name=web-*": true, "image=ghcr.io/*": true, "image=*:v2": true, "image=*:v1": false, "net=none": true, "label=team": true, "label=team=b*": true,
		"label=team=red": false,
	} {
		var list []string
		if filters != "" {
			list = strings.Split(filters, ",")
		}
		keep, err := parseFilters(list)
		if err != nil {
			t.Fatal(err)
		}
		if got := keep(vm); got != want {
			t.Errorf("the VM passes the filters %q: %v, want %v", filters, got, want)
		}
	}
	for _, bad := range []string{"state", "state=", "size=1", "name=[", "=x"} {
		if _, err := parseFilters([]string{bad}); fault.KindOf(err) != fault.Invalid || fault.HintOf(err) == "" {
			t.Errorf("the filter %q is not refused with a hint: %v", bad, err)
		}
	}
}

func TestParseEnv(t *testing.T) {
	a := &app{env: []string{"HERE=1", "HERE=2", "EMPTY="}}
	got, err := envList(a, []string{"A=b=c", "HERE", "EMPTY", "MISSING", "A=last"})
	if want := []string{"A=last", "HERE=2", "EMPTY=", "A=last"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("the environment is %q, %v, want %q", got, err, want)
	}
	for _, bad := range []string{"1A=x", "=x", "A-B=x", "A=\x00"} {
		if _, err := parseEnv(a, []string{bad}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("the variable %q is not refused: %v", bad, err)
		}
	}
}

func TestTailAndFollow(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log")
	long := strings.Repeat("x", 100_000) + "\n"
	for _, c := range []struct {
		text  string
		lines int
		want  string
	}{
		{"a\nb\nc\n", 2, "b\nc\n"}, {"a\nb\nc", 2, "b\nc"}, {"a\nb\n", 5, "a\nb\n"}, {"", 1, ""}, {"a\nb\n", 0, "a\nb\n"}, {"\n\n\n", 1, "\n"},
		{"first\n" + long + "last\n", 2, long + "last\n"}, {long + long, 1, long},
	} {
		if err := os.WriteFile(name, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := seekTail(f, c.lines); err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(f)
		f.Close()
		if string(got) != c.want {
			t.Errorf("the last %d lines of %.20q are %.20q, want %.20q", c.lines, c.text, got, c.want)
		}
	}

	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &follower{ctx: ctx, path: name, f: f}
	buf := make([]byte, 1<<20)
	read := func(want string) {
		t.Helper()
		n, err := r.Read(buf)
		if string(buf[:n]) != want || err != nil {
			t.Errorf("the follower reads %.20q, %v, want %.20q", buf[:n], err, want)
		}
	}
	read(long + long)
	os.WriteFile(name, []byte("short\n"), 0o600) // truncated in place
	read("short\n")
	os.WriteFile(name+".new", []byte("replaced\n"), 0o600)
	os.Rename(name+".new", name)
	read("replaced\n")
	cancel()
	if _, err := r.Read(buf); !errors.Is(err, io.EOF) {
		t.Errorf("a read after the end of the context returns %v, want EOF", err)
	}
	r.f.Close()
}

func TestQuotes(t *testing.T) {
	if got, want := shellQuote("/it's 100%/banger"), `'/it'\''s 100%%/banger'`; got != want {
		t.Errorf("quoted for the shell: %s, want %s", got, want)
	}
	if got, want := sshQuote(`/a "b"\c%`), `"/a \"b\"\\c%%"`; got != want {
		t.Errorf("quoted for ssh_config: %s, want %s", got, want)
	}
	if got, want := command([]string{"sh", "-c", "a b", ""}), `sh -c "a b" ""`; got != want {
		t.Errorf("a command is written as %s, want %s", got, want)
	}
}

// TestDefaultsInHelp checks that no flag's help ends in an empty "(default )".
func TestDefaultsInHelp(t *testing.T) {
	var check func(cmd *cobra.Command)
	check = func(cmd *cobra.Command) {
		if usages := cmd.LocalFlags().FlagUsages(); strings.Contains(usages, "(default )") {
			t.Errorf("%s has a flag with an empty default:\n%s", cmd.CommandPath(), usages)
		}
		for _, sub := range cmd.Commands() {
			check(sub)
		}
	}
	check(NewCommands())
}
