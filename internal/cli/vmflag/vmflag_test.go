package vmflag

import (
	"reflect"
	"strings"
	"testing"

	"banger/internal/cli/command"
	"banger/internal/fault"
	"banger/internal/model"
)

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
		keep, err := Filter(list)
		if err != nil {
			t.Fatal(err)
		}
		if got := keep(vm); got != want {
			t.Errorf("the VM passes the filters %q: %v, want %v", filters, got, want)
		}
	}
	for _, bad := range []string{"state", "state=", "size=1", "name=[", "=x"} {
		if _, err := Filter([]string{bad}); fault.KindOf(err) != fault.Invalid || fault.HintOf(err) == "" {
			t.Errorf("the filter %q is not refused with a hint: %v", bad, err)
		}
	}
}

func TestParseEnv(t *testing.T) {
	a := &command.App{Env: []string{"HERE=1", "HERE=2", "EMPTY="}}
	got, err := Env(a, []string{"A=b=c", "HERE", "EMPTY", "MISSING", "A=last"})
	if want := []string{"A=last", "HERE=2", "EMPTY=", "A=last"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("the environment is %q, %v, want %q", got, err, want)
	}
	for _, bad := range []string{"1A=x", "=x", "A-B=x", "A=\x00"} {
		if _, err := parseEnv(a, []string{bad}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("the variable %q is not refused: %v", bad, err)
		}
	}
}
