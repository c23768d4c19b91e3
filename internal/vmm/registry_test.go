package vmm_test

import (
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/vmm"
)

// named is a driver that has a name and does nothing else.
type named struct {
	vmm.Driver
	name string
}

func (d *named) Name() string { return d.name }

func TestRegistry(t *testing.T) {
	a, b, b2 := &named{name: "a"}, &named{name: "b"}, &named{name: "b"}
	r := vmm.NewRegistry(a, b, a, b2)
	if r.Default() != a {
		t.Error("the default is not the first driver")
	}
	for want, name := range map[*named]string{a: "a", b: "b"} {
		if got, err := r.Named(name); err != nil || got != want {
			t.Errorf("the name %q does not find the first driver that has it: %v", name, err)
		}
	}
	all := r.All()
	if len(all) != 2 || all[0] != a || all[1] != b {
		t.Errorf("All does not list each name once, the default first: %v", all)
	}
	all[0] = nil
	if r.Default() != a {
		t.Error("changing the result of All changes the registry")
	}
}

func TestRegistryUnknown(t *testing.T) {
	r := vmm.NewRegistry(&named{name: "a"}, &named{name: "b"})
	for _, name := range []string{"", "c", "A"} {
		d, err := r.Named(name)
		if d != nil || fault.KindOf(err) != fault.Unsupported {
			t.Errorf("the unknown name %q is not refused as unsupported: %v, %v", name, d, err)
		}
		if hint := fault.HintOf(err); !strings.Contains(hint, "a, b") {
			t.Errorf("the hint for %q does not name the drivers there are: %q", name, hint)
		}
	}
}
