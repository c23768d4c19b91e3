package policy

import (
	"net/netip"
	"strconv"
	"strings"

	"banger/internal/fault"
)

// Rule allows or denies hosts. Exactly one of Any, Host, Domain and Net is set.
type Rule struct {
	Allow  bool
	Any    bool         // every host
	Host   bool         // the host's loopback
	Domain string       // see Normal
	Below  bool         // the subdomains of Domain, not Domain itself
	Net    netip.Prefix // of addresses
	Ports  Ports        // zero: all
	Proto  Proto        // "": all
}

// Ports is a range of ports.
type Ports struct{ First, Last uint16 }

// The longest names (RFC 1035, section 2.3.4).
const (
	maxName  = 253
	maxLabel = 63
)

// MaxRules is how many rules a policy may have.
const MaxRules = 1000

// ParseRule reads a rule as a person writes it: [HOST][:PORT[-PORT]][/PROTOCOL]. HOST is a name, a
// name with "*." before it for its subdomains, an address, a network such as 10.0.0.0/8, "host" for
// the host's loopback, or "*".
func ParseRule(text string, allow bool) (Rule, error) {
	r := Rule{Allow: allow}
	bad := func(format string, args ...any) (Rule, error) {
		return Rule{}, fault.New(fault.Invalid, "the rule %.300q: "+format, append([]any{text}, args...)...).
			WithHint("Write HOST, HOST:PORT or HOST:PORT/tcp. HOST is a name such as example.com or *.example.com, an address, a network such as 10.0.0.0/8, host or *.")
	}
	rest := text
	if i := strings.LastIndexByte(rest, '/'); i >= 0 {
		switch p := Proto(strings.ToLower(rest[i+1:])); p {
		case TCP, UDP, ICMP:
			r.Proto, rest = p, rest[:i]
		}
	}
	host, ports, hasPorts, ok := cutPorts(rest)
	if !ok {
		return bad("the brackets do not match")
	}
	if hasPorts {
		if r.Ports, ok = parsePorts(ports); !ok {
			return bad("%q is not a port from 1 to 65535 or a range of ports", ports)
		}
		if r.Proto == ICMP {
			return bad("icmp has no ports")
		}
	}
	switch {
	case host == "*" || host == "" && hasPorts:
		r.Any = true
	case strings.EqualFold(host, "host"):
		r.Host = true
	default:
		if r.Net, ok = parseNet(host); ok {
			break
		}
		name, below := strings.CutPrefix(host, "*.")
		if r.Domain, ok = Normal(name); !ok {
			return bad("%q is neither a name nor an address", host)
		}
		r.Below = below
	}
	return r, nil
}

// cutPorts cuts the ports off. An IPv6 address with ports is in brackets.
func cutPorts(text string) (host, ports string, has, ok bool) {
	if inner, opened := strings.CutPrefix(text, "["); opened {
		host, after, closed := strings.Cut(inner, "]")
		ports, has = strings.CutPrefix(after, ":")
		return host, ports, has, closed && (after == "" || has) && strings.Contains(host, ":")
	}
	if strings.Count(text, ":") > 1 { // an IPv6 address
		return text, "", false, true
	}
	host, ports, has = strings.Cut(text, ":")
	return host, ports, has, true
}

func parsePorts(text string) (Ports, bool) {
	first, last, ranged := strings.Cut(text, "-")
	if !ranged {
		last = first
	}
	a, errA := strconv.ParseUint(first, 10, 16)
	b, errB := strconv.ParseUint(last, 10, 16)
	p := Ports{uint16(a), uint16(b)}
	return p, errA == nil && errB == nil && a > 0 && a <= b
}

// parseNet reads an address or a network. Bits beyond the prefix must be 0: somebody who writes
// 10.1.2.3/8 means something else.
func parseNet(text string) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p, p == p.Masked() && !p.Addr().Is4In6()
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		return netip.Prefix{}, false
	}
	addr = addr.Unmap()
	return netip.PrefixFrom(addr, addr.BitLen()), true
}

// Normal returns a domain name in the form in which names are compared: lower case, without a final
// dot. It reports whether the name is one: letters, digits, - and _ in labels of up to 63, the last
// one not only digits. Names in other scripts are written in their ASCII form (xn--).
func Normal(name string) (string, bool) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if name == "" || len(name) > maxName {
		return "", false
	}
	last := ""
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' {
			return "", false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return "", false
			}
		}
		last = label
	}
	return name, strings.Trim(last, "0123456789") != ""
}

// String returns the rule as ParseRule reads it, without whether it allows.
func (r Rule) String() string {
	var text string
	switch {
	case r.Any:
		text = "*"
	case r.Host:
		text = "host"
	case r.Domain != "":
		text = r.Domain
		if r.Below {
			text = "*." + text
		}
	case r.Net.IsSingleIP():
		text = r.Net.Addr().String()
	default:
		text = r.Net.String()
	}
	if r.Ports != (Ports{}) {
		if strings.Contains(text, ":") {
			text = "[" + text + "]"
		}
		text += ":" + strconv.Itoa(int(r.Ports.First))
		if r.Ports.Last != r.Ports.First {
			text += "-" + strconv.Itoa(int(r.Ports.Last))
		}
	}
	if r.Proto != "" {
		text += "/" + string(r.Proto)
	}
	return text
}

// byName reports whether the rule needs the name of a host.
func (r *Rule) byName() bool { return r.Domain != "" }

// covers reports whether the rule is about the port and the protocol of a flow.
func (r *Rule) covers(f Flow) bool {
	if r.Proto != "" && r.Proto != f.Proto {
		return false
	}
	if r.Ports == (Ports{}) {
		return true
	}
	return f.Proto != ICMP && r.Ports.First <= f.Port && f.Port <= r.Ports.Last
}

func (r *Rule) matches(f Flow, name string) bool {
	if !r.covers(f) {
		return false
	}
	if r.byName() {
		return r.matchesName(name)
	}
	return r.matchesAddr(f.Addr)
}

// matchesName reports whether the rule is about a name. One for every host is about every name.
func (r *Rule) matchesName(name string) bool {
	switch {
	case r.Any:
		return true
	case r.Domain == "" || name == "":
		return false
	case r.Below:
		return strings.HasSuffix(name, "."+r.Domain)
	}
	return name == r.Domain
}

// matchesAddr reports whether the rule is about an address. An allow rule for every host is not
// about the addresses that a policy keeps from guests by default: these have to be named.
func (r *Rule) matchesAddr(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	switch {
	case r.Any:
		return !r.Allow || ClassOf(addr) == Internet
	case r.Host:
		return ClassOf(addr) == Host
	}
	if r.Net.Contains(addr) {
		return !r.Allow || r.names(ClassOf(addr))
	}
	inner, ok := embedded(addr)
	return ok && !r.Allow && r.Net.Contains(inner)
}

// names reports whether the rule's network lies in one class. An allow rule for a larger one, such
// as 0.0.0.0/0, allows the internet only: nobody means the metadata service by that.
func (r *Rule) names(c Class) bool {
	return c == Internet || ClassOf(r.Net.Addr()) == c && ClassOf(last(r.Net)) == c
}

// last returns the last address of a network.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	addr, _ := netip.AddrFromSlice(b) // of 4 or 16 bytes
	return addr
}
