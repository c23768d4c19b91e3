// Package policy decides which connections of a guest are allowed. It is pure: no clock, no
// network, no state. docs/internals/network.md explains the decisions.
//
// # Vocabulary
//
//   - A mode is what a VM reaches without any rule: public, open, deny or none.
//   - A rule allows or denies hosts: by name, by address, by port and protocol.
//   - A name is bound to an address if banger's resolver has answered the VM's question for it with
//     the address, and the answer is still valid. The guest's own claims bind nothing.
//
// # Order
//
// A deny rule takes precedence over every allow rule, and a rule takes precedence over the mode. A
// rule by name allows only addresses that are bound to the name, and no private ones, unless the
// mode or a rule by address allows them, too: otherwise the owner of a name could open the user's
// own network (DNS rebinding).
//
// A rule by name needs the name that the client asks for (TLS SNI, HTTP Host), because many names
// share an address. Then the verdict is Peek: read the first bytes, and decide again.
package policy

import (
	"net/netip"
	"slices"
)

// Mode is what a VM reaches without any rule.
type Mode string

// The modes.
const (
	Public Mode = "public" // the internet
	Open   Mode = "open"   // the internet, private networks, and the host's loopback
	Deny   Mode = "deny"   // nothing
	None   Mode = "none"   // nothing, and no rule changes that
)

// Proto is a protocol above IP. "" in a rule means every protocol.
type Proto string

// The protocols.
const (
	TCP  Proto = "tcp"
	UDP  Proto = "udp"
	ICMP Proto = "icmp" // echo requests; they have no port
)

// Policy is what a VM may reach. It is not changed while it is in use.
type Policy struct {
	Mode  Mode
	Rules []Rule
}

// Flow is a connection that a guest begins, or a datagram to a new destination.
type Flow struct {
	Proto Proto
	Addr  netip.Addr // a loopback address stands for the host
	Port  uint16
	Names []string // that are bound to the address: see Normal
	Seen  Sight
	Name  string // if Seen is Named: see Normal
}

// Sight is what is known of the client's first bytes.
type Sight int

// What is known.
const (
	Unread   Sight = iota // not read yet
	Named                 // they ask for a host by name
	Nameless              // TLS or HTTP that names no host, or hides the name
	Silent                // the client speaks another protocol, or waits for the server
)

// Action is what happens to a flow.
type Action int

// The actions.
const (
	Refuse Action = iota
	Allow
	Peek // read the first bytes without connecting, and decide again
)

// Verdict is a decision about a flow.
type Verdict struct {
	Action Action
	// Rule is the rule that decides. Nil: the mode does, or Unbound.
	Rule *Rule
	// Unbound means that a rule allows the name, but nothing binds the name to the address.
	Unbound bool
	// Rebound means that a rule allows the name, but its address is none of the internet.
	Rebound bool
}

// Decide decides about a flow. Only a TCP flow that is Unread gets Peek.
func (p *Policy) Decide(f Flow) Verdict {
	switch {
	case f.Seen == Named:
		return p.judge(f, f.Name)
	case f.Seen == Nameless:
		return p.judge(f, "")
	case f.Seen == Silent || f.Proto != TCP:
		return p.byBinding(f)
	}
	first := p.byBinding(f)
	if first.Rule != nil && first.Action == Refuse && !first.Rule.byName() {
		return first
	}
	for _, r := range p.Rules {
		if r.byName() && r.covers(f) && p.matters(f, r, first.Action) {
			return Verdict{Action: Peek}
		}
	}
	return first
}

// matters reports whether a rule by name can change a decision that was made without the name.
func (p *Policy) matters(f Flow, r Rule, first Action) bool {
	if !r.Allow {
		return first == Allow || p.judge(f, "").Action == Allow
	}
	return slices.ContainsFunc(f.Names, func(name string) bool { return p.judge(f, name).Action == Allow }) && p.judge(f, "").Action != Allow
}

// byBinding decides about a flow whose name is never seen: by all names that are bound.
func (p *Policy) byBinding(f Flow) Verdict {
	best := p.judge(f, "")
	for _, name := range f.Names {
		v := p.judge(f, name)
		if v.Action == Refuse && v.Rule != nil {
			return v
		}
		if best.Action == Refuse && (v.Action == Allow || v.Rebound) {
			best = v
		}
	}
	return best
}

// judge decides about a flow to the host with that name; "" stands for a host without a name.
func (p *Policy) judge(f Flow, name string) Verdict {
	if p.Mode == None || ClassOf(f.Addr) == Special {
		return Verdict{}
	}
	if r := p.find(f, name, false); r != nil {
		return Verdict{Rule: r}
	}
	if r := p.find(f, name, true); r != nil {
		return p.named(f, r, name)
	}
	if p.Mode.reaches(ClassOf(f.Addr)) {
		return Verdict{Action: Allow}
	}
	return Verdict{}
}

// named is the verdict if an allow rule matches: a rule by address is enough.
func (p *Policy) named(f Flow, r *Rule, name string) Verdict {
	class := ClassOf(f.Addr)
	switch {
	case !r.byName():
		return Verdict{Action: Allow, Rule: r}
	case p.Mode.reaches(class):
		return Verdict{Action: Allow}
	case !slices.Contains(f.Names, name):
		return Verdict{Unbound: true}
	case class != Internet:
		return Verdict{Rebound: true}
	}
	return Verdict{Action: Allow, Rule: r}
}

// find returns the first rule of a kind that matches, one by address if there is one.
func (p *Policy) find(f Flow, name string, allow bool) (found *Rule) {
	for i := range p.Rules {
		r := &p.Rules[i]
		if r.Allow != allow || !r.matches(f, name) {
			continue
		}
		if !r.byName() {
			return r
		}
		if found == nil {
			found = r
		}
	}
	return found
}

// Resolves reports whether the VM may ask for the addresses of a name, and the rule that decides;
// nil for the mode. Rules for some ports or protocols do not deny the name itself.
func (p *Policy) Resolves(name string) (bool, *Rule) {
	if p.Mode == None {
		return false, nil
	}
	var allowed *Rule
	for i := range p.Rules {
		r := &p.Rules[i]
		if !r.matchesName(name) {
			continue
		}
		if !r.Allow && r.Proto == "" && r.Ports == (Ports{}) {
			return false, r
		}
		if r.Allow && allowed == nil {
			allowed = r
		}
	}
	return allowed != nil || p.Mode != Deny, allowed
}

// Answers reports whether an answer of the resolver may hold an address. One that the VM cannot
// reach is left out, which ends DNS rebinding before it begins.
func (p *Policy) Answers(addr netip.Addr) bool {
	class := ClassOf(addr)
	if p.Mode == None || class == Special {
		return false
	}
	if class == Internet || p.Mode.reaches(class) {
		return true
	}
	return slices.ContainsFunc(p.Rules, func(r Rule) bool { return r.Allow && r.matchesAddr(addr) })
}

// reaches reports whether a mode allows a class of addresses.
func (m Mode) reaches(c Class) bool {
	switch m {
	case Public:
		return c == Internet
	case Open:
		return c == Internet || c == Private || c == Host
	}
	return false
}
