package link

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// address adds or removes an address (struct ifaddrmsg).
func address(kind, flags uint16, index int, p netip.Prefix) request {
	var ifaFlags byte
	if p.Addr().Is6() {
		ifaFlags = unix.IFA_F_NODAD
	}
	b := []byte{family(p.Addr()), byte(p.Bits()), ifaFlags, unix.RT_SCOPE_UNIVERSE}
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = attr(b, unix.IFA_LOCAL, p.Addr().AsSlice())
	b = attr(b, unix.IFA_ADDRESS, p.Addr().AsSlice())
	return request{kind: kind, flags: flags, body: b}
}

// ip6DefaultMetric is the kernel's metric of a route that names none (linux/ipv6_route.h,
// IP6_RT_PRIO_USER).
const ip6DefaultMetric = 1024

// defaultRoute makes a default route (struct rtmsg).
func defaultRoute(index int, cfg Config) request {
	var flags uint32
	if !cfg.Address.Contains(cfg.Gateway) {
		flags = unix.RTNH_F_ONLINK
	}
	b := []byte{family(cfg.Gateway), 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST}
	b = binary.NativeEndian.AppendUint32(b, flags)
	b = attr(b, unix.RTA_GATEWAY, cfg.Gateway.AsSlice())
	b = attr(b, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(index)))
	if metric := cfg.Metric; metric > 0 {
		if cfg.Gateway.Is6() {
			metric += ip6DefaultMetric
		}
		b = attr(b, unix.RTA_PRIORITY, binary.NativeEndian.AppendUint32(nil, metric))
	}
	if cfg.Gateway.Is4() && cfg.Address.Addr().Is4() {
		b = attr(b, unix.RTA_PREFSRC, cfg.Address.Addr().AsSlice())
	}
	return request{kind: unix.RTM_NEWROUTE, flags: unix.NLM_F_CREATE | unix.NLM_F_REPLACE, body: b}
}
