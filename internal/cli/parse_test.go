package cli

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

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
