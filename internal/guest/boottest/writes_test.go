package boottest

import (
	"slices"
	"testing"

	"banger/internal/fault"
	"banger/internal/firstboot"
)

// TestWrites asks a machine what was written since it got its identity, as for a template: when its
// processes are frozen.
func TestWrites(t *testing.T) {
	p := requireParts(t)
	m := p.start(t, disks{image: newImage(t, busyboxRoot(t)), system: newDisk(t, "1G")})
	if _, err := m.Writes(m.ctx()); fault.KindOf(err) != fault.WrongState {
		t.Errorf("a machine without an identity answers with %v", err)
	}
	m.assume(nil)
	m.freeze()
	w, err := m.Writes(m.ctx())
	if err != nil {
		t.Fatal(err)
	}
	if v := firstboot.Judge(w); !v.Harmless() {
		t.Errorf("the agent itself wrote %q, which is not known to be harmless", v.Shared)
	}
	m.thaw()
	m.sh("mkdir -p /etc/app /var/lib/app; echo secret > /etc/app/key; echo secret > /var/lib/app/key; mkdir -p /var/log /opt; echo log > /var/log/app; echo secret > /opt/key")
	m.freeze()
	if w, err = m.Writes(m.ctx()); err != nil {
		t.Fatal(err)
	}
	if v := firstboot.Judge(w); !slices.Equal(v.Shared, []string{"/etc/app/key", "/opt/key", "/var/lib/app/key"}) {
		t.Errorf("of the files that were written, these would be shared: %q", v.Shared)
	}
	m.thaw()
	if _, err := m.PowerOff(m.ctx(), endGrace); err != nil {
		t.Error(err)
	}
	m.awaitEnd()
}
