package policy

import "net/netip"

// Class is what an address belongs to.
type Class int

// The classes.
const (
	Internet  Class = iota
	Host            // the host's loopback
	Private         // networks that the internet does not route
	LinkLocal       // with the metadata services of clouds
	Special         // multicast, broadcast, unspecified and reserved addresses: no rule allows them
)

func (c Class) String() string {
	return [...]string{"the internet", "the host", "a private network", "a link-local or metadata address", "a special address"}[c]
}

type block struct {
	prefix netip.Prefix
	class  Class
}

// blocks are what is not the internet (IANA's special-purpose registries of IPv4 and IPv6, RFC
// 6890). The metadata services that are not link-local come first: AWS, Google, Alibaba, Oracle.
var blocks = []block{
	{netip.MustParsePrefix("fd00:ec2::254/128"), LinkLocal},
	{netip.MustParsePrefix("fd20:ce::254/128"), LinkLocal},
	{netip.MustParsePrefix("100.100.100.200/32"), LinkLocal},
	{netip.MustParsePrefix("192.0.0.192/32"), LinkLocal},

	{netip.MustParsePrefix("0.0.0.0/8"), Special},
	{netip.MustParsePrefix("10.0.0.0/8"), Private},
	{netip.MustParsePrefix("100.64.0.0/10"), Private}, // RFC 6598
	{netip.MustParsePrefix("127.0.0.0/8"), Host},
	{netip.MustParsePrefix("169.254.0.0/16"), LinkLocal},
	{netip.MustParsePrefix("172.16.0.0/12"), Private},
	{netip.MustParsePrefix("192.0.0.0/24"), Special},
	{netip.MustParsePrefix("192.0.2.0/24"), Special},
	{netip.MustParsePrefix("192.88.99.0/24"), Special}, // RFC 7526
	{netip.MustParsePrefix("192.168.0.0/16"), Private},
	{netip.MustParsePrefix("198.18.0.0/15"), Private}, // RFC 2544
	{netip.MustParsePrefix("198.51.100.0/24"), Special},
	{netip.MustParsePrefix("203.0.113.0/24"), Special},
	{netip.MustParsePrefix("224.0.0.0/3"), Special},

	{netip.MustParsePrefix("::1/128"), Host},
	{netip.MustParsePrefix("64:ff9b:1::/48"), Private}, // RFC 8215
	{netip.MustParsePrefix("fc00::/7"), Private},
	{netip.MustParsePrefix("fec0::/10"), Private}, // RFC 3879
	{netip.MustParsePrefix("fe80::/10"), LinkLocal},
}

// The IPv6 addresses of the internet. All others are special, unless blocks has them.
var (
	global6 = netip.MustParsePrefix("2000::/3")
	// For examples in texts: RFC 3849, RFC 9637.
	docs6 = []netip.Prefix{netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("3fff::/20")}
)

// ClassOf returns the class of an address. An IPv6 address that leads to an IPv4 address has the
// class of that one: a private address has many names.
func ClassOf(addr netip.Addr) Class {
	addr = addr.Unmap().WithZone("")
	if inner, ok := embedded(addr); ok {
		return ClassOf(inner)
	}
	for _, b := range blocks {
		if b.prefix.Contains(addr) {
			return b.class
		}
	}
	if addr.Is4() {
		return Internet
	}
	if !global6.Contains(addr) || docs6[0].Contains(addr) || docs6[1].Contains(addr) {
		return Special
	}
	return Internet
}

// The prefixes of IPv6 addresses that hold an IPv4 address, and where: RFC 6052, RFC 3056, RFC
// 4380.
var (
	nat64     = netip.MustParsePrefix("64:ff9b::/96")
	sixToFour = netip.MustParsePrefix("2002::/16")
	teredo    = netip.MustParsePrefix("2001::/32")
)

// embedded returns the IPv4 address that packets to an IPv6 address would reach.
func embedded(addr netip.Addr) (netip.Addr, bool) {
	if !addr.Is6() {
		return netip.Addr{}, false
	}
	b := addr.As16()
	switch {
	case nat64.Contains(addr):
		return netip.AddrFrom4([4]byte(b[12:])), true
	case sixToFour.Contains(addr):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	case teredo.Contains(addr):
		return netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}), true
	}
	return netip.Addr{}, false
}
