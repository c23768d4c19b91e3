package link

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/testkit"
)

// inNamespace runs the test in its own network namespace, with a link eth0.
func inNamespace(t *testing.T) {
	testkit.RequireTool(t, "ip")
	testkit.Require(t, "root", os.Getuid() == 0, "a network namespace needs it")
	runtime.LockOSThread() // never unlocked: the thread ends with the test and its namespace
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		testkit.Require(t, "root", false, err.Error())
	}
	ip(t, "link", "add", "eth0", "type", "veth", "peer", "name", "far")
	ip(t, "link", "set", "far", "up")
}

func ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %v: %v: %s", args, err, out)
	}
	return string(out)
}

func TestConfigure(t *testing.T) {
	inNamespace(t)
	if err := Up("lo"); err != nil {
		t.Fatal(err)
	}
	mac, _ := net.ParseMAC("02:00:00:00:00:07")
	for _, tt := range []struct {
		cfg  Config
		want []string
	}{
		{Config{Address: netip.MustParsePrefix("10.0.2.15/24"), Gateway: netip.MustParseAddr("10.0.2.2"), MTU: 1400},
			[]string{"mtu 1400", "inet 10.0.2.15/24", "default via 10.0.2.2 dev eth0"}},
		{Config{Address: netip.MustParsePrefix("172.16.0.9/32"), Gateway: netip.MustParseAddr("169.254.0.1"), MAC: mac},
			[]string{"link/ether 02:00:00:00:00:07", "inet 172.16.0.9/32", "default via 169.254.0.1 dev eth0", "onlink"}},
		{Config{Address: netip.MustParsePrefix("fd00::2/64"), Gateway: netip.MustParseAddr("fd00::1")},
			[]string{"inet6 fd00::2/64", "default via fd00::1 dev eth0"}},
		{Config{Address: netip.MustParsePrefix("192.0.2.1/24")}, []string{"inet 192.0.2.1/24"}},
	} {
		for range 2 { // the same again changes nothing
			if err := Configure("eth0", tt.cfg); err != nil {
				t.Fatalf("configuring %v: %v", tt.cfg, err)
			}
		}
		got := ip(t, "addr", "show", "eth0") + ip(t, "route") + ip(t, "-6", "route")
		for _, want := range tt.want {
			if !strings.Contains(got, want) {
				t.Errorf("after configuring %v there is no %q in\n%s", tt.cfg, want, got)
			}
		}
		if n := strings.Count(got, "scope global"); n != 1 {
			t.Errorf("after configuring %v there are %d addresses, want 1:\n%s", tt.cfg, n, got)
		}
		if is6 := tt.cfg.Address.Addr().Is6(); strings.Contains(got, "inet6 ") != is6 {
			t.Errorf("after configuring %v IPv6 should be on: %v\n%s", tt.cfg, is6, got)
		}
	}
	if err := Configure("nosuch", Config{}); err == nil {
		t.Error("configuring a missing link succeeds")
	}
}

func TestFind(t *testing.T) {
	class := t.TempDir()
	for name, v := range map[string][3]string{
		"eth1": {"3", "virtio_net", "02:00:00:00:00:01"}, "eth0": {"12", "virtio_net", "02:00:00:00:00:02"},
		"e1000": {"2", "e1000", "02:00:00:00:00:03"}, "lo": {"1", "", "00:00:00:00:00:00"},
	} {
		dir := filepath.Join(class, name)
		os.MkdirAll(filepath.Join(dir, "device"), 0o755)
		os.WriteFile(filepath.Join(dir, "ifindex"), []byte(v[0]+"\n"), 0o644)
		os.WriteFile(filepath.Join(dir, "address"), []byte(v[2]+"\n"), 0o644)
		if v[1] != "" {
			os.Symlink("/drivers/"+v[1], filepath.Join(dir, "device/driver"))
		}
	}
	mac := func(last byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, last} }
	for name, tt := range map[string]struct {
		card Card
		want string // "" is an error
	}{
		"first":               {Card{}, "eth1"},
		"second":              {Card{Index: 1}, "eth0"},
		"beyond":              {Card{Index: 2}, ""},
		"by address":          {Card{MACs: []net.HardwareAddr{mac(2)}}, "eth0"},
		"by its next address": {Card{MACs: []net.HardwareAddr{mac(9), mac(1)}}, "eth1"},
		"unknown address":     {Card{MACs: []net.HardwareAddr{mac(9)}}, ""},
		"not virtio":          {Card{MACs: []net.HardwareAddr{mac(3)}}, ""},
	} {
		if got, err := find(class, tt.card); got != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("%s: the card is %q, %v; want %q", name, got, err, tt.want)
		}
	}
	if got, err := find(t.TempDir(), Card{}); err == nil {
		t.Errorf("a machine without cards has the card %q", got)
	}
}

// TestTwoCards: each keeps its own addresses, and the first one's default route is preferred.
func TestTwoCards(t *testing.T) {
	inNamespace(t)
	for range 2 {
		for name, cfg := range map[string]Config{
			"eth0": {Address: netip.MustParsePrefix("10.0.2.15/24"), Gateway: netip.MustParseAddr("10.0.2.2")},
			"far":  {Address: netip.MustParsePrefix("10.9.0.2/24"), Gateway: netip.MustParseAddr("10.9.0.1"), Metric: 1},
		} {
			if err := Configure(name, cfg); err != nil {
				t.Fatalf("configuring %s: %v", name, err)
			}
		}
	}
	routes := ip(t, "route", "show", "default")
	for _, want := range []string{"default via 10.0.2.2 dev eth0", "default via 10.9.0.1 dev far", "metric 1"} {
		if !strings.Contains(routes, want) {
			t.Errorf("no %q in the default routes:\n%s", want, routes)
		}
	}
	if n := strings.Count(routes, "default"); n != 2 {
		t.Errorf("%d default routes, want 2:\n%s", n, routes)
	}
	if got := ip(t, "route", "get", "192.0.2.1"); !strings.Contains(got, "via 10.0.2.2") {
		t.Errorf("traffic leaves by another card than the first: %s", got)
	}
}
