package ui

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                "plain",
		"ünïcödé 猫":            "ünïcödé 猫",
		"a\x1b[31mb":           "a[31mb",
		"a\u009b31mb":          "a31mb",
		"a\nb\tc\rd":           "a b c d",
		"\u202eabc\u2066":      "abc",
		"bad\xff":              "bad\uFFFD",
		"bell\a\x00\x7f":       "bell",
		"zero\u200bwidth":      "zerowidth",
		"tag\U000E0041":        "tag",
		"line\u2028\u2029x":    "linex",
		"a\u3164\ufe0fb\u034f": "ab",
	} {
		if got := Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
	if got, want := CleanLines("one\nhint: two\x1b[2J\n\n", "  "), "one\n  hint: two[2J"; got != want {
		t.Errorf("CleanLines: %q, want %q", got, want)
	}
}

func FuzzClean(f *testing.F) {
	f.Add("a\x1b]0;x\a\u009b\u202e\xff", 5)
	f.Fuzz(func(t *testing.T, s string, width int) {
		clean := Clean(s)
		for _, r := range clean {
			if deceptive(r) || unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
				t.Fatalf("Clean(%q) has %U", s, r)
			}
		}
		if !utf8.ValidString(clean) {
			t.Fatalf("Clean(%q) is not UTF-8", s)
		}
		width %= 300
		if fit := Fit(clean, width); width >= 0 && Width(fit) > width {
			t.Fatalf("Fit(%q, %d) has %d columns", clean, width, Width(fit))
		}
	})
}

func TestWidth(t *testing.T) {
	for in, want := range map[string]int{"": 0, "abc": 3, "猫": 2, "e\u0301": 1, "…": 1, "━": 1, "🚀": 2, "한글": 4, "✓": 1} {
		if got := Width(in); got != want {
			t.Errorf("Width(%q) = %d, want %d", in, got, want)
		}
	}
	for i := 1; i < len(wide); i++ {
		if wide[i][0] <= wide[i-1][1] {
			t.Errorf("the table of wide characters is out of order at %x", wide[i][0])
		}
	}
}

func TestFit(t *testing.T) {
	for _, c := range []struct {
		in    string
		width int
		want  string
	}{{"abcdef", 6, "abcdef"}, {"abcdef", 5, "abcd…"}, {"abcdef", 1, "…"}, {"abcdef", 0, ""}, {"猫猫猫", 4, "猫…"}, {"猫猫猫", 5, "猫猫…"}, {"ab", -1, ""}} {
		if got := Fit(c.in, c.width); got != c.want {
			t.Errorf("Fit(%q, %d) = %q, want %q", c.in, c.width, got, c.want)
		}
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 15 * time.Microsecond: "15µs", 12 * time.Millisecond: "12ms", 2419 * time.Millisecond: "2.41s", 59990 * time.Millisecond: "59.9s",
		185 * time.Second: "3m 5s", 7200 * time.Second: "2h", 123 * time.Hour: "5d 3h", -time.Second: "-1.00s",
		math.MaxInt64: "106751d 23h", math.MinInt64: "-106751d 23h", -math.MaxInt64: "-106751d 23h",
	} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%d) = %q, want %q", d, got, want)
		}
	}
	if got := Age(-time.Hour); got != "0s" {
		t.Errorf("the age of a future time is %q, want 0s", got)
	}
}

// FuzzDuration: every time has a short text. Times come from guests.
func FuzzDuration(f *testing.F) {
	f.Add(int64(math.MinInt64))
	f.Add(int64(-1))
	f.Add(int64(59_999_999_999))
	f.Fuzz(func(t *testing.T, n int64) {
		if text := Duration(time.Duration(n)); text == "" || len(text) > 16 {
			t.Errorf("Duration(%d) = %q", n, text)
		}
		if text := Age(time.Duration(n)); text == "" || len(text) > 16 {
			t.Errorf("Age(%d) = %q", n, text)
		}
		var b bytes.Buffer
		bars := []Bar{{Name: "a", Offset: time.Duration(n), Duration: time.Duration(n)}, {Name: "b", Offset: math.MaxInt64, Duration: time.Second}}
		if err := Timeline(&b, 80, Style{}, []Group{{Name: "g", Bars: bars}}); err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(b.String()) {
			if Width(strings.TrimSuffix(line, "\n")) > 80 {
				t.Errorf("the timeline of %d has the line %q", n, line)
			}
		}
	})
}

func TestClosest(t *testing.T) {
	names := []string{"web", "database", "quiet-otter", "start", "stop"}
	for in, want := range map[string]string{
		"wbe": "web", "databse": "database", "quiet": "quiet-otter", "strat": "start", "xyz": "", "w": "", "": "", "stopp": "stop", "otter-quiet": "",
	} {
		if got := Closest(in, names); got != want {
			t.Errorf("Closest(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestJSON(t *testing.T) {
	in := map[string]string{"k": "a\u009b\u202e\U000E0041<b>\n\x7f"}
	var b bytes.Buffer
	if err := JSON(&b, in); err != nil {
		t.Fatal(err)
	}
	if want := "{\n  \"k\": \"a\\u009b\\u202e\\udb40\\udc41<b>\\n\\u007f\"\n}\n"; b.String() != want {
		t.Errorf("JSON is %s want %s", b.String(), want)
	}
	var out map[string]string
	if err := json.Unmarshal(b.Bytes(), &out); err != nil || out["k"] != in["k"] {
		t.Errorf("the JSON decodes to %q, %v, not to the same value", out, err)
	}
}

func TestFilter(t *testing.T) {
	for in, want := range map[string]string{
		"plain\n":                                 "plain\n",
		"\x1b[1;31mred\x1b[0m":                    "\x1b[1;31mred\x1b[0m",
		"\x1b[38:2::1:2:3mx":                      "x",
		"\x1b[30;40mhidden":                       "hidden",
		"\x1b[38;2;0;0;0;48;2;0;0;0mhidden":       "hidden",
		"\x1b[38;5;1;32mx":                        "\x1b[32mx",
		"\x1b[037;97;7;2mx\x1b[;92m":              "x\x1b[;92m",
		"\x1b[2Ja\x1b[10;10Hb":                    "ab",
		"\x1b[?25la\x1b[>0mb":                     "ab",
		"\x1b]0;title\aa\x1b]52;c;x\x1b\\":        "a",
		"\x1bPq#0\x1b\\a":                         "a",
		"a\x1b]unfinished\nb":                     "a\nb",
		"a\u009b31mb":                             "a31mb",
		"\x1b[" + strings.Repeat("1;", 40) + "mx": "x",
		"\x1b[5nx":                                "x",
		"tab\t\r\n\x00\x08\x7f":                   "tab\t\r\n",
		"\x1b[8mhidden\x1b[28m":                   "hidden",
		"\x1b[31;8;5m\x1b[0;08mx":                 "\x1b[31m\x1b[0mx",
		"\x1b[8:1mx\x1b[m":                        "x\x1b[m",
		"\x1b[38;5;8m\x1b[48;2;8;8;8;8;1mx":       "\x1b[1mx",
		"\x1b[0:8;4:3;38;2;8mx\x1b[38;5mx":        "xx",
		"evil\rgood\r\r\n":                        "evil\ngood\r\n",
		"a\u202eb\u200bc\u2066d\U000e0041e\u3164": "abcde",
	} {
		var whole, bits bytes.Buffer
		NewFilter(&whole).Write([]byte(in))
		one := NewFilter(&bits)
		for i := range len(in) {
			one.Write([]byte{in[i]})
		}
		if whole.String() != want {
			t.Errorf("%q written at once becomes %q, want %q", in, whole.String(), want)
		}
		if bits.String() != want {
			t.Errorf("%q written byte by byte becomes %q, want %q", in, bits.String(), want)
		}
	}
}

// TestFilterClose: the style of a log ends with the log.
func TestFilterClose(t *testing.T) {
	for in, want := range map[string]string{
		"x": "x", "\x1b[4mx": "\x1b[4mx\x1b[m", "\x1b[8mx": "x", "x\r": "x\n",
	} {
		var b bytes.Buffer
		f := NewFilter(&b)
		f.Write([]byte(in))
		if err := f.Close(); err != nil || b.String() != want {
			t.Errorf("%q becomes %q, %v, want %q", in, b.String(), err, want)
		}
	}
}

func FuzzFilter(f *testing.F) {
	f.Add([]byte("a\x1b[31mb\x1b]0;x\a"), 3)
	f.Add([]byte("\x1b[30;40ma\x1b[38;2;0;0;0;48;2;0;0;0mb\x1b[037;7m\x1b[38;2;0;0m"), 5)
	showing := regexp.MustCompile(`^0*(|[14]|2[24]|39|3[1-6]|9[1-6])$`)
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		var out bytes.Buffer
		w := NewFilter(&out)
		at := 0
		if len(in) > 0 && cut > 0 {
			at = cut % len(in)
		}
		w.Write(in[:at])
		w.Write(in[at:])
		for _, r := range strings.ReplaceAll(strings.ReplaceAll(out.String(), "\r\n", ""), "\x1b[", "") {
			if deceptive(r) && r != '\n' && r != '\t' {
				t.Fatalf("%q let %U through", in, r)
			}
		}
		for part := range strings.SplitSeq(out.String(), "\x1b[") {
			if strings.ContainsAny(part, "\x1b\a\x08\u009b\u009d") {
				t.Fatalf("%q let %q through", in, out.String())
			}
		}
		for _, part := range strings.Split(out.String(), "\x1b[")[1:] {
			end := strings.TrimLeft(part, "0123456789;:")
			if !strings.HasPrefix(end, "m") {
				t.Fatalf("%q let %q through", in, out.String())
			}
			for _, param := range strings.Split(part[:len(part)-len(end)], ";") {
				if !showing.MatchString(param) {
					t.Fatalf("%q may hide text by %q", in, out.String())
				}
			}
		}
	})
}

type brokenWriter struct {
	err    error
	writes int
}

func (w *brokenWriter) Write([]byte) (int, error) {
	w.writes++
	return 0, w.err
}

func TestOutput(t *testing.T) {
	w := &brokenWriter{err: syscall.ENOSPC}
	o := NewOutput(w)
	for _, name := range []string{"web-1", "web-2"} {
		fmt.Fprintln(o, name)
	}
	if !errors.Is(o.Failed(), syscall.ENOSPC) || w.writes != 1 {
		t.Errorf("after a write that failed there were %d writes, and the error is %v", w.writes, o.Failed())
	}
	if o.Lost() != "web-1\nweb-2\n" {
		t.Errorf("lost: %q", o.Lost())
	}
	fmt.Fprint(o, strings.Repeat("x", maxLost))
	if o.Lost() != "" {
		t.Errorf("lost of a long text: %q", o.Lost())
	}
	o = NewOutput(&brokenWriter{err: syscall.EPIPE})
	if _, err := fmt.Fprintln(o, "x"); !errors.Is(err, syscall.EPIPE) || o.Failed() != nil {
		t.Errorf("a reader that has gone: %v, and Failed is %v", err, o.Failed())
	}
}
