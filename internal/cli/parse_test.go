package cli

import (
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"banger/internal/cli/command"
	"banger/internal/fault"
	"banger/internal/model"
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
	a := &command.App{Env: []string{"HERE=1", "HERE=2", "EMPTY="}}
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
