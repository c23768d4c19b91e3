package boottest

import (
	"net"
	"strings"
	"testing"
	"time"

	"banger/internal/guest/proto"
	"banger/internal/vmm"
)

// TestTwoCards boots a machine with two cards. Each is found as the document names it, gets a new
// MAC address, and is configured again by a thaw.
func TestTwoCards(t *testing.T) {
	p := requireParts(t)
	d := disks{image: newImage(t, busyboxRoot(t)), system: newDisk(t, "1G")}
	desc := p.description(t, d)
	desc.NICs = append(desc.NICs, vmm.NIC{Kind: vmm.NICUser, MAC: net.HardwareAddr{2, 0, 0, 9, 9, 9}})
	begin := time.Now()
	in, err := driver(t).Start(t.Context(), desc, ignore)
	if err != nil {
		t.Fatalf("starting a machine with two cards: %v", err)
	}
	m := follow(t, desc, in, begin)

	networks := []proto.Network{
		{Card: proto.Card{MAC: "02:00:00:09:09:09"}, MAC: "02:00:00:09:09:0a", Address: "192.0.2.9/24", DNS: []string{"192.0.2.1"}},
		{Card: proto.Card{MAC: desc.NICs[0].MAC.String()}, Address: "10.0.2.15/24", Gateway: "10.0.2.2", DNS: []string{"10.0.2.3"}},
	}
	m.assume(func(doc *proto.Assume) { doc.Networks = networks })
	check := func(when string) {
		t.Helper()
		got := m.sh("for c in /sys/class/net/eth*; do cat $c/address; ip -o addr show ${c##*/}; done; ip route; cat /etc/resolv.conf")
		for _, want := range []string{
			"02:00:00:09:09:0a\n", "inet 192.0.2.9/24", desc.NICs[0].MAC.String() + "\n", "inet 10.0.2.15/24",
			"default via 10.0.2.2", "nameserver 192.0.2.1\nnameserver 10.0.2.3",
		} {
			if !strings.Contains(got, want) {
				t.Errorf("%s: no %q in\n%s", when, want, got)
			}
		}
		if n := strings.Count(got, "scope global"); n != 2 {
			t.Errorf("%s: %d addresses, want 2:\n%s", when, n, got)
		}
	}
	check("after assume")

	for range 2 { // thawing twice is the same
		m.sh("ip addr flush dev eth0; ip addr flush dev eth1; ip link set eth1 down")
		m.freeze()
		thaw := proto.Thaw{Entropy: make([]byte, 32), Time: time.Now(), Networks: networks}
		if err := m.Thaw(m.ctx(), thaw); err != nil {
			t.Fatalf("thawing with networks: %v", err)
		}
		check("after a thaw")
	}

	// Without networks a thaw leaves the cards alone.
	m.sh("ip addr add 198.51.100.7/24 dev eth0")
	m.freeze()
	m.thaw()
	if got := m.sh("ip -o addr show eth0"); !strings.Contains(got, "198.51.100.7") {
		t.Errorf("a thaw without networks changed a card: %s", got)
	}

	// A fork with other cards, the first of which is found by its place.
	m.freeze()
	m.assume(func(doc *proto.Assume) {
		as(t, "loud-owl")(doc)
		doc.Networks = []proto.Network{{Card: proto.Card{Index: 1}, Address: "10.9.0.2/16"}, {Address: "10.8.0.2/16"}}
	})
	got := m.sh("ip -o addr show eth0; ip -o addr show eth1")
	for _, want := range []string{"eth0    inet 10.8.0.2/16", "eth1    inet 10.9.0.2/16"} {
		if !strings.Contains(got, want) {
			t.Errorf("after a fork there is no %q in\n%s", want, got)
		}
	}
}
