package policy

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestCases decides about the flows of testdata/cases.txt. Each case is also decided by the naive
// implementation.
func TestCases(t *testing.T) {
	data, err := os.ReadFile("testdata/cases.txt")
	if err != nil {
		t.Fatal(err)
	}
	var p Policy
	cases := 0
	for i, line := range strings.Split(string(data), "\n") {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0 || strings.HasPrefix(line, "#"):
			continue
		case fields[0] == "policy":
			p = policyOf(t, fields[1:])
			continue
		}
		cases++
		f, want := flowOf(t, fields)
		got := verdictText(p.Decide(f))
		if got != want {
			t.Errorf("line %d: %s: the verdict is %q", i+1, line, got)
		}
		if naive := naiveDecide(p, f); naive != p.Decide(f).Action {
			t.Errorf("line %d: %s: the naive implementation decides %v", i+1, line, naive)
		}
	}
	if cases < 150 {
		t.Errorf("there are only %d cases", cases)
	}
}

func policyOf(t *testing.T, fields []string) Policy {
	t.Helper()
	p := Policy{Mode: Mode(fields[0])}
	for _, text := range fields[1:] {
		r, err := ParseRule(text[1:], text[0] == '+')
		if err != nil {
			t.Fatal(err)
		}
		if r.String() != text[1:] {
			t.Errorf("the rule %q becomes %q", text[1:], r.String())
		}
		p.Rules = append(p.Rules, r)
	}
	return p
}

func flowOf(t *testing.T, fields []string) (f Flow, want string) {
	t.Helper()
	f.Proto = Proto(fields[0])
	var err error
	if f.Proto == ICMP {
		f.Addr, err = netip.ParseAddr(fields[1])
	} else {
		var at netip.AddrPort
		at, err = netip.ParseAddrPort(fields[1])
		f.Addr, f.Port = at.Addr(), at.Port()
	}
	if err != nil {
		t.Fatal(err)
	}
	for i, field := range fields[2:] {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "names":
			f.Names = strings.Split(value, ",")
		case "seen":
			switch value {
			case "nameless":
				f.Seen = Nameless
			case "silent":
				f.Seen = Silent
			default:
				f.Seen, f.Name = Named, value
			}
		default:
			return f, strings.Join(fields[2+i:], " ")
		}
	}
	t.Fatalf("%v has no verdict", fields)
	return f, ""
}

func verdictText(v Verdict) string {
	text := [...]string{"refuse", "allow", "peek"}[v.Action]
	switch {
	case v.Rule != nil:
		text += " " + v.Rule.String()
	case v.Unbound:
		text += " unbound"
	case v.Rebound:
		text += " rebound"
	}
	return text
}

// naiveDecide is a second implementation: it lists the possible names of the host, decides about
// each one by looking at every rule, and compares the results.
func naiveDecide(p Policy, f Flow) Action {
	ruled := func(allow, byName bool, name string) bool {
		for _, r := range p.Rules {
			if r.Allow != allow || (r.Domain != "") != byName {
				continue
			}
			if r.Proto != "" && r.Proto != f.Proto || r.Ports.First != 0 && (f.Proto == ICMP || f.Port < r.Ports.First || f.Port > r.Ports.Last) {
				continue
			}
			if byName && naiveName(r, name) || !byName && naiveAddr(r, f.Addr) {
				return true
			}
		}
		return false
	}
	class := ClassOf(f.Addr)
	reached := class == Internet && (p.Mode == Public || p.Mode == Open) || p.Mode == Open && (class == Private || class == Host)
	one := func(name string) bool {
		denied := ruled(false, false, name) || ruled(false, true, name)
		bound := false
		for _, n := range f.Names {
			bound = bound || n == name
		}
		allowed := reached || ruled(true, false, name) || ruled(true, true, name) && bound && class == Internet
		return p.Mode != None && class != Special && !denied && allowed
	}
	binding := func() bool {
		some := one("")
		for _, n := range f.Names {
			if ruled(false, true, n) || ruled(false, false, n) {
				return false
			}
			some = some || one(n)
		}
		return some
	}
	result := func(ok bool) Action {
		if ok {
			return Allow
		}
		return Refuse
	}
	switch {
	case f.Seen == Named:
		return result(one(f.Name))
	case f.Seen == Nameless:
		return result(one(""))
	case f.Seen == Silent || f.Proto != TCP:
		return result(binding())
	}
	// Which results are possible? A name that nobody thought of stands for all others; denied names
	// are possible whether or not they are bound.
	possible := map[bool]bool{binding(): true, one(""): true, one("a name of nobody"): true}
	for _, n := range f.Names {
		possible[one(n)] = true
	}
	for _, r := range p.Rules {
		if !r.Allow && r.Domain != "" {
			name := r.Domain
			if r.Below {
				name = "x." + name
			}
			possible[one(name)] = true
		}
	}
	if len(possible) == 2 {
		return Peek
	}
	return result(binding())
}

func naiveName(r Rule, name string) bool {
	if r.Below {
		return len(name) > len(r.Domain)+1 && strings.HasSuffix(name, "."+r.Domain)
	}
	return name == r.Domain
}

func naiveAddr(r Rule, addr netip.Addr) bool {
	class := ClassOf(addr)
	switch {
	case r.Any:
		return !r.Allow || class == Internet
	case r.Host:
		return class == Host
	}
	addr = addr.Unmap()
	if r.Net.Contains(addr) {
		low, high := r.Net.Addr(), r.Net.Addr()
		for bit := r.Net.Bits(); bit < r.Net.Addr().BitLen(); bit++ {
			high = withBit(high, bit)
		}
		return !r.Allow || class == Internet || ClassOf(low) == class && ClassOf(high) == class
	}
	if inner, ok := embedded(addr); ok {
		return !r.Allow && r.Net.Contains(inner)
	}
	return false
}

func withBit(a netip.Addr, bit int) netip.Addr {
	b := a.AsSlice()
	b[bit/8] |= 1 << (7 - bit%8)
	a, _ = netip.AddrFromSlice(b)
	return a
}

// FuzzDecide compares both implementations on policies and flows of a small world, in which rules
// meet flows often.
func FuzzDecide(f *testing.F) {
	f.Add([]byte("0123456789abcdef"))
	f.Add([]byte{1, 2, 3, 0, 0, 0, 9, 9, 1, 1, 4, 4, 2, 2})
	f.Fuzz(func(t *testing.T, data []byte) {
		w := world{data}
		p := Policy{Mode: pick(&w, Public, Open, Deny, None)}
		for range w.next() % 6 {
			p.Rules = append(p.Rules, w.rule())
		}
		flow := w.flow()
		got, naive := p.Decide(flow), naiveDecide(p, flow)
		if got.Action != naive {
			t.Errorf("%v %v: %+v: decided %s, the naive implementation %v", p.Mode, p.Rules, flow, verdictText(got), naive)
		}
		if got.Action == Peek && (flow.Proto != TCP || flow.Seen != Unread) {
			t.Errorf("%+v gets Peek", flow)
		}
		if got.Action == Allow && ClassOf(flow.Addr) == Special {
			t.Errorf("%+v is allowed", flow)
		}
		if r := got.Rule; r != nil && r.Allow != (got.Action == Allow) {
			t.Errorf("%+v: the rule %v leads to %v", flow, r, got.Action)
		}
	})
}

type world struct{ data []byte }

func (w *world) next() int {
	if len(w.data) == 0 {
		return 0
	}
	b := w.data[0]
	w.data = w.data[1:]
	return int(b)
}

func pick[T any](w *world, of ...T) T { return of[w.next()%len(of)] }

func (w *world) rule() Rule {
	r := Rule{Allow: w.next()%2 == 0, Proto: pick(w, "", "", TCP, UDP, ICMP), Ports: pick(w, Ports{}, Ports{}, Ports{443, 443}, Ports{22, 80})}
	switch w.next() % 5 {
	case 0:
		r.Any = true
	case 1:
		r.Host = true
	case 2:
		r.Net = netip.MustParsePrefix(pick(w, "0.0.0.0/0", "10.0.0.0/8", "1.2.3.4/32", "127.0.0.1/32", "169.254.169.254/32", "::/0", "64:ff9b::/96", "224.0.0.0/4"))
	default:
		r.Domain, r.Below = pick(w, "a.com", "b.a.com", "c.org"), w.next()%2 == 0
	}
	return r
}

func (w *world) flow() Flow {
	f := Flow{Proto: pick(w, TCP, TCP, UDP, ICMP), Seen: pick(w, Unread, Unread, Named, Nameless, Silent)}
	f.Addr = netip.MustParseAddr(pick(w, "1.2.3.4", "5.6.7.8", "10.0.0.1", "127.0.0.1", "169.254.169.254", "::1", "64:ff9b::102:304", "64:ff9b::a00:1",
		"::ffff:1.2.3.4", "2606::1", "224.0.0.1", "0.0.0.0"))
	if f.Proto != ICMP {
		f.Port = pick[uint16](w, 22, 80, 443, 8080)
	}
	names := []string{"a.com", "b.a.com", "x.b.a.com", "c.org", "d.net"}
	for range w.next() % 3 {
		f.Names = append(f.Names, pick(w, names...))
	}
	if f.Seen == Named {
		f.Name = pick(w, names...)
	}
	return f
}

// FuzzParseRule checks that what is accepted is written as it is read.
func FuzzParseRule(f *testing.F) {
	for _, seed := range []string{"example.com", "*.example.com:443/tcp", "10.0.0.0/8", "[2001:db8::/32]:1-65535/udp", "host:80", "*", ":53/udp", "::1", "1.2.3.4/icmp"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRule(text, true)
		if err != nil {
			return
		}
		again, err := ParseRule(r.String(), true)
		if err != nil || again != r {
			t.Errorf("%q is read as %+v and written as %q, which is read as %+v, %v", text, r, r.String(), again, err)
		}
		set := 0
		for _, is := range []bool{r.Any, r.Host, r.Domain != "", r.Net.IsValid()} {
			if is {
				set++
			}
		}
		if set != 1 {
			t.Errorf("%q is read as %+v", text, r)
		}
	})
}

func TestRuleErrors(t *testing.T) {
	for _, text := range []string{
		"", "/tcp", "exa mple.com", "example.com:0", "example.com:65536", "example.com:80-79", "example.com:", "example.com:x", "*.", "*.*.com", "a*.com",
		"1.2.3", "1.2.3.4.5", "256.1.1.1", "10.1.2.3/8", "10.0.0.0/33", "[::1", "[1.2.3.4]:80", "[::1]80", "fe80::1%eth0", "-a.com", "a-.com", "a..com", ".com", "exämple.com",
		"example.com:80/icmp", "*/icmp:80", "example.com/sctp", strings.Repeat("a", 64) + ".com", strings.Repeat("a.", 127) + "com", "http://example.com", "a.com/tcp/udp",
	} {
		if r, err := ParseRule(text, true); err == nil {
			t.Errorf("the rule %q is read as %+v", text, r)
		} else if !strings.Contains(err.Error(), strconv.Quote(text)) && len(text) < 300 {
			t.Errorf("the error does not name the rule %q: %v", text, err)
		}
	}
	for text, want := range map[string]string{
		"Example.COM.": "example.com", "*.Example.com:443": "*.example.com:443", "HOST:22/TCP": "host:22/tcp", ":53/udp": "*:53/udp", "1.2.3.4/32": "1.2.3.4",
		"2001:DB8::1": "2001:db8::1", "[2001:db8::1]:80-80": "[2001:db8::1]:80", "::ffff:1.2.3.4": "1.2.3.4", "my_db": "my_db", "*/icmp": "*/icmp",
	} {
		if r, err := ParseRule(text, false); err != nil || r.String() != want {
			t.Errorf("the rule %q is read as %v, %v, not as %q", text, r, err, want)
		}
	}
}

func TestResolves(t *testing.T) {
	for policy, names := range map[string]map[string]string{
		"public":                        {"a.com": "true"},
		"none +a.com":                   {"a.com": "false"},
		"deny":                          {"a.com": "false"},
		"deny +10.0.0.0/8":              {"a.com": "false"},
		"deny +a.com:443 +*.b.org":      {"a.com": "true a.com:443", "x.a.com": "false", "x.b.org": "true *.b.org", "b.org": "false"},
		"deny +* -a.com":                {"a.com": "false a.com", "b.com": "true *"},
		"public -a.com:443 -*.b.org":    {"a.com": "true", "b.org": "true", "x.b.org": "false *.b.org"},
		"public -a.com/udp +a.com -*:1": {"a.com": "true a.com"},
		"public -*":                     {"a.com": "false *"},
	} {
		p := policyOf(t, strings.Fields(policy))
		for name, want := range names {
			ok, r := p.Resolves(name)
			got := fmt.Sprint(ok)
			if r != nil {
				got += " " + r.String()
			}
			if got != want {
				t.Errorf("%s: resolving %s: %s, not %s", policy, name, got, want)
			}
		}
	}
}

func TestAnswers(t *testing.T) {
	for policy, addrs := range map[string]map[string]bool{
		"public":            {"1.2.3.4": true, "10.0.0.1": false, "127.0.0.1": false, "169.254.169.254": false, "::ffff:10.0.0.1": false, "0.0.0.0": false, "2606::1": true},
		"open":              {"1.2.3.4": true, "10.0.0.1": true, "127.0.0.1": true, "169.254.169.254": false, "224.0.0.1": false},
		"public +10.0.0.1":  {"10.0.0.1": true, "10.0.0.2": false},
		"deny +a.com":       {"1.2.3.4": true, "10.0.0.1": false},
		"none +0.0.0.0/0":   {"1.2.3.4": false},
		"public +0.0.0.0/0": {"10.0.0.1": false, "0.0.0.0": false},
	} {
		p := policyOf(t, strings.Fields(policy))
		for addr, want := range addrs {
			if got := p.Answers(netip.MustParseAddr(addr)); got != want {
				t.Errorf("%s: an answer with %s: %v", policy, addr, got)
			}
		}
	}
}
