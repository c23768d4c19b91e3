package openssh

import (
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		args string
		want Call
		ok   bool
		user bool
	}{
		{"web", Call{Name: "web"}, true, false},
		{"web.vm ls -l", Call{Name: "web", Command: []string{"ls", "-l"}}, true, false},
		{"nobody@web", Call{User: "nobody@", Name: "web"}, true, true},
		{"-p 22 -vv -L1:h:2 -tto A=b web -N", Call{Options: []string{"-p", "22", "-vv", "-L1:h:2", "-tto", "A=b", "-N"}, Name: "web"}, true, false},
		{"-l root web", Call{Options: []string{"-l", "root"}, Name: "web"}, true, true},
		{"web -l root", Call{Options: []string{"-l", "root"}, Name: "web"}, true, true},
		{"web -A ls -l", Call{Options: []string{"-A"}, Name: "web", Command: []string{"ls", "-l"}}, true, false},
		{"web -oUser=x", Call{Options: []string{"-oUser=x"}, Name: "web"}, true, true},
		{"-v -- web -A -- -x", Call{Options: []string{"-v", "-A"}, Name: "web", Command: []string{"--", "-x"}}, true, false},
		{"-p", Call{Options: []string{"-p"}}, false, false},
		{"-p 22", Call{Options: []string{"-p", "22"}}, false, false},
		{"user@", Call{User: "user@"}, false, true},
		{"--", Call{}, false, false},
		{"", Call{}, false, false},
	} {
		got, ok := Parse(strings.Fields(c.args))
		if !slices.Equal(got.Options, c.want.Options) || !slices.Equal(got.Command, c.want.Command) || got.User != c.want.User || got.Name != c.want.Name {
			t.Errorf("%q is parsed as %+v, want %+v", c.args, got, c.want)
		}
		if ok != c.ok {
			t.Errorf("%q names a VM: %v, want %v", c.args, ok, c.ok)
		}
		if got.NamesUser() != c.user {
			t.Errorf("%q names a user: %v, want %v", c.args, got.NamesUser(), c.user)
		}
	}
}
