package openssh

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseSSH(t *testing.T) {
	for _, c := range []struct {
		args string
		want Call
		ok   bool
		user bool
	}{
		{"web", Call{Before: []string{}, Name: "web", After: []string{}}, true, false},
		{"web.vm ls -l", Call{Before: []string{}, Name: "web", After: []string{"ls", "-l"}}, true, false},
		{"nobody@web", Call{Before: []string{}, User: "nobody@", Name: "web", After: []string{}}, true, true},
		{"-p 22 -vv -L1:h:2 -tto A=b web -N", Call{Before: []string{"-p", "22", "-vv", "-L1:h:2", "-tto", "A=b"}, Name: "web", After: []string{"-N"}}, true, false},
		{"-l root web", Call{Before: []string{"-l", "root"}, Name: "web", After: []string{}}, true, true},
		{"web -l root", Call{Before: []string{}, Name: "web", After: []string{"-l", "root"}}, true, true},
		{"web ls -l", Call{Before: []string{}, Name: "web", After: []string{"ls", "-l"}}, true, false},
		{"web -oUser=x", Call{Before: []string{}, Name: "web", After: []string{"-oUser=x"}}, true, true},
		{"-- web", Call{Before: []string{"--"}, Name: "web", After: []string{}}, true, false},
		{"-p", Call{Before: []string{"-p"}}, false, false},
		{"-p 22", Call{Before: []string{"-p", "22"}}, false, false},
		{"user@", Call{Before: []string{}, User: "user@", After: []string{}}, false, true},
		{"--", Call{Before: []string{"--"}}, false, false},
	} {
		got, ok := Parse(strings.Fields(c.args))
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q is parsed as %+v, want %+v", c.args, got, c.want)
		}
		if ok != c.ok {
			t.Errorf("%q names a VM: %v, want %v", c.args, ok, c.ok)
		}
		if got.NamesUser() != c.user {
			t.Errorf("%q names a user: %v, want %v", c.args, got.NamesUser(), c.user)
		}
	}
	if _, ok := Parse(nil); ok {
		t.Error("an empty list of arguments names a VM")
	}
}

// TestQuotes checks the quotes of words with spaces, quotes and percent signs.
func TestQuotes(t *testing.T) {
	if got, want := shellQuote("/it's 100%/banger"), `'/it'\''s 100%%/banger'`; got != want {
		t.Errorf("quoted for the shell: %s, want %s", got, want)
	}
	if got, want := Quote(`/a "b"\c%`), `"/a \"b\"\\c%%"`; got != want {
		t.Errorf("quoted for ssh_config: %s, want %s", got, want)
	}
}
