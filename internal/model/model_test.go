package model

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestParseBytes(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Bytes // -1: rejected
	}{
		{"512M", 512 * MiB}, {"8G", 8 * GiB}, {"8g", 8 * GiB}, {"1.5GiB", GiB + 512*MiB}, {"1048576", MiB}, {" 64 kB ", 64 * KiB},
		{"2T", 2 * TiB}, {"0", 0}, {"10B", 10}, {"0.5K", 512},
		{"", -1}, {"G", -1}, {"-1G", -1}, {"+1G", -1}, {"1e9", -1}, {"0x10", -1}, {"1_000", -1}, {"1 000", -1}, {"8P", -1}, {"8iB", -1},
		{"9999999999T", -1}, {"99999999999999999999", -1}, {"1..5G", -1}, {"NaN", -1}, {"infG", -1}, {"8GG", -1},
	} {
		got, err := ParseBytes(c.in)
		if c.want < 0 != (err != nil) || err == nil && got != c.want {
			t.Errorf("ParseBytes(%q) = %d, %v; want %d", c.in, got, err, c.want)
		}
		if err != nil && !strings.Contains(err.Error(), strings.TrimSpace(c.in)) {
			t.Errorf("ParseBytes(%q): %v does not name the input", c.in, err)
		}
	}
}

// TestHugeBytes claims that the error of a size that no number holds names the bounds.
func TestHugeBytes(t *testing.T) {
	for _, in := range []string{"9999999999G", "9999999999.5G"} {
		if _, err := ParseBytes(in); err == nil || !strings.Contains(err.Error(), "most "+MaxDiskSize.String()+",") || !strings.HasSuffix(err.Error(), "most "+MaxMemory.String()) {
			t.Errorf("ParseBytes(%q): %v names no bounds", in, err)
		}
	}
}

func FuzzParseBytes(f *testing.F) {
	for _, s := range []string{"512M", "1.5GiB", "-1", "", "9999999999T", "1e9", "0.0000001K"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b, err := ParseBytes(s)
		if err == nil && b < 0 {
			t.Errorf("ParseBytes(%q) = %d", s, b)
		}
	})
}

func TestBytesAsTextAndJSON(t *testing.T) {
	for b, want := range map[Bytes]string{0: "0B", 512: "512B", 512 * MiB: "512M", 8 * GiB: "8G", GiB + 512*MiB: "1.5G", 3 * TiB: "3T"} {
		if got := b.String(); got != want {
			t.Errorf("%d is shown as %q, want %q", int64(b), got, want)
		}
		data, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		var back Bytes
		if err := json.Unmarshal(data, &back); err != nil || back != b {
			t.Errorf("%s read back as %d, %v", data, back, err)
		}
	}
	var b Bytes
	if err := json.Unmarshal([]byte(`"8G"`), &b); err != nil || b != 8*GiB {
		t.Errorf("text in JSON: %d, %v", b, err)
	}
	if err := json.Unmarshal([]byte(`{}`), &b); err == nil {
		t.Error("a JSON object was accepted as a size")
	}
}

func TestCheckName(t *testing.T) {
	for _, good := range []string{"a", "web-1", "quiet-otter", "0a", "deadbee", "deadbeefcafg", strings.Repeat("z", 63)} {
		if err := CheckName(good); err != nil {
			t.Errorf("the good name %q was rejected: %v", good, err)
		}
	}
	for _, bad := range []string{"", "-a", "a-", "A", "a_b", "a.b", "a b", "../x", "a\n", "a\x00", "ö", "localhost", "123", "deadbeef", "deadbeefcafe", strings.Repeat("a", 64), strings.Repeat("z", 64)} {
		if CheckName(bad) == nil {
			t.Errorf("the bad name %q was accepted", bad)
		}
	}
}

// TestLookup claims that a ref in the form of an id means the id, and that older names still open.
func TestLookup(t *testing.T) {
	const id, other = "deadbeef00000000", "1234567800000000"
	type item struct{ id, name string }
	items := []item{{id, "web"}, {other, "deadbeef"}, {"aaaa000000000000", "cafecafe"}, {"aaaa100000000000", "123456789abc"}, {"bb00000000000000", "dead"}}
	for ref, want := range map[string]string{
		"web": id, id: id, "deadbeef": id, "dead": "bb00000000000000", "cafecafe": "aaaa000000000000", "1234": other, "bb": "bb00000000000000",
		"123456789abc": "", "": "", "none": "", "aaaa": "aaaa000000000000 aaaa100000000000",
	} {
		var got []string
		for _, found := range Lookup(ref, slices.Values(items), func(i item) (string, string) { return i.id, i.name }) {
			got = append(got, found.id)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q means %q, want %q", ref, got, want)
		}
	}
}

func FuzzCheckName(f *testing.F) {
	f.Add("quiet-otter")
	f.Add("../../etc")
	f.Fuzz(func(t *testing.T, s string) {
		if CheckName(s) == nil && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			t.Errorf("the bad name %q was accepted", s)
		}
	})
}

func TestNewName(t *testing.T) {
	calls := 0
	name := NewName(func(string) bool { calls++; return calls < 20 })
	if err := CheckName(name); err != nil {
		t.Error(err)
	}
	for range 500 {
		if err := CheckName(NewName(func(string) bool { return false })); err != nil {
			t.Fatal(err)
		}
	}
}

func TestIDs(t *testing.T) {
	if id := NewID(); !IsID(id) || id == NewID() {
		t.Errorf("NewID: %q is not an id, or came twice", id)
	}
	for _, bad := range []string{"", "abc", "../0123456789abc", "0123456789ABCDEF", "0123456789abcdef0"} {
		if IsID(bad) {
			t.Errorf("%q was accepted as an id", bad)
		}
	}
}

func TestValidate(t *testing.T) {
	good := Spec{Name: "a", VCPUs: 1, Memory: 512 * MiB, DiskSize: 8 * GiB, Net: NetUser}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*Spec){
		"vcpus":          func(s *Spec) { s.VCPUs = 0 },
		"memory":         func(s *Spec) { s.Memory = MiB },
		"whole number":   func(s *Spec) { s.Memory = 512*MiB + 1 },
		"disk size":      func(s *Spec) { s.DiskSize = -1 },
		"work disk size": func(s *Spec) { s.WorkDiskSize = 1 },
		"net":            func(s *Spec) { s.Net = "bridge" },
		"remove":         func(s *Spec) { s.Remove = "soon" },
		"workdir":        func(s *Spec) { s.Workdir = "src" },
		"env":            func(s *Spec) { s.Env = map[string]string{"A=B": "c"} },
		"NUL":            func(s *Spec) { s.Env = map[string]string{"A": "\x00"} },
		"more than":      func(s *Spec) { s.Env = map[string]string{"A": strings.Repeat("x", 70000)} },
	} {
		s := good
		change(&s)
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("a bad spec: got %v, want an error with %q", err, what)
		}
	}
}

func TestCheckUser(t *testing.T) {
	for _, user := range []string{"", "root", "1000:1000", "www-data:daemon", "domain user", "jürgen"} {
		if err := CheckUser(user); err != nil {
			t.Errorf("%q is refused: %v", user, err)
		}
	}
	for _, user := range []string{"root\n", "a\x00", "\x1b[31m", strings.Repeat("u", 257)} {
		if err := CheckUser(user); err == nil {
			t.Errorf("%.20q is accepted", user)
		}
		s := Spec{Name: "web", User: user}
		if err := s.ValidateNew(); err == nil || !strings.Contains(err.Error(), "user: ") {
			t.Errorf("a new VM with the user %.20q: %v", user, err)
		}
	}
}

func TestStates(t *testing.T) {
	all := []State{Creating, Stopped, Starting, Running, Pausing, Paused, Suspended, Stopping, Deleting, Broken, Failed}
	for _, from := range all {
		reachable := false
		for _, to := range all {
			if from.May(to) && !contains(all, to) {
				t.Errorf("%s may become %s, which is no state", from, to)
			}
			reachable = reachable || from.May(to)
		}
		if !reachable {
			t.Errorf("no state may follow %s", from)
		}
		if from.Between() && from != Creating && !from.Live() {
			t.Errorf("%s belongs to an operation, but no machine may exist in it", from)
		}
	}
	if Deleting.May(Running) || Deleting.May(Starting) {
		t.Error("a VM that is being deleted may be started or run")
	}
}

func contains(all []State, s State) bool {
	for _, x := range all {
		if x == s {
			return true
		}
	}
	return false
}

func TestNamesOfForks(t *testing.T) {
	long := strings.Repeat("x", 62)
	for name, c := range map[string]struct {
		req  Fork
		want []string // nil: refused
	}{
		"one":           {Fork{}, []string{""}},
		"one by name":   {Fork{Name: "b"}, []string{"b"}},
		"one of one":    {Fork{Name: "b", Count: 1}, []string{"b"}},
		"many":          {Fork{Count: 2}, []string{"a-1", "a-2"}},
		"many by name":  {Fork{Name: "b", Count: 2}, []string{"b-1", "b-2"}},
		"none":          {Fork{Count: -1}, nil},
		"too many":      {Fork{Count: MaxForks + 1}, nil},
		"a bad name":    {Fork{Name: "A b"}, nil},
		"a long name":   {Fork{Name: long}, []string{long}},
		"a longer name": {Fork{Name: long, Count: 2}, nil},
		"a bad policy":  {Fork{Remove: "some day"}, nil},
	} {
		got, err := c.req.Names(Spec{
			Name: "a", Image: "i", VCPUs: 1, Memory: GiB, DiskSize: GiB, Net: NetNone,
		})
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: the children's names are %q, want %q", name, got, c.want)
		}
		if (c.want == nil) != (err != nil) {
			t.Errorf("%s: the request is invalid: %v, but the error is %v", name, c.want == nil, err)
		}
	}
}
