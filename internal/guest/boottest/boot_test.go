package boottest

import (
	"bytes"
	"testing"
	"time"

	"banger/internal/guest"
	"banger/internal/guest/proto"
)

func TestBoot(t *testing.T) {
	p := requireParts(t)
	m := p.boot(t, disks{image: newImage(t, busyboxRoot(t)), system: newDisk(t, "1G")})
	h, err := m.Hello(m.ctx())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("hello after %v: %+v", time.Since(m.start), h)
	if h.Assumed || h.Generation != proto.Generation {
		t.Errorf("hello is %+v", h)
	}
	got := m.assume(nil)
	t.Logf("assumed after %v: %+v", time.Since(m.start), got)
	for _, tt := range []struct {
		argv   []string
		exit   proto.Exit
		stdout string
	}{
		{[]string{"echo", "hi"}, proto.Exit{}, "hi\n"},
		{[]string{"sh", "-c", "exit 7"}, proto.Exit{Code: 7}, ""},
		{[]string{"sh", "-c", "kill -9 $$"}, proto.Exit{Code: 137, Signal: "SIGKILL"}, ""},
		{[]string{"no-such-command"}, proto.Exit{Code: 127}, ""},
		{[]string{"/etc/passwd"}, proto.Exit{Code: 126}, ""},
	} {
		var out, errOut bytes.Buffer
		start := time.Now()
		exit, err := m.Exec(m.ctx(), proto.ExecRequest{Argv: tt.argv}, guest.IO{Stdout: &out, Stderr: &errOut})
		if err != nil || exit != tt.exit || out.String() != tt.stdout {
			t.Errorf("%q: %+v, %v, %q, %q", tt.argv, exit, err, out.String(), errOut.String())
		}
		t.Logf("%q: %v %q", tt.argv, time.Since(start), errOut.String())
	}
	t.Log(m.sh("hostname; mount; cat /etc/hosts /etc/resolv.conf; ip addr; ip route; df; ls -la / /var/lib/docker; ps"))
	if err := m.PowerOff(m.ctx()); err != nil {
		t.Error(err)
	}
	m.awaitEnd()
}
