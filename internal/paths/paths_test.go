package paths

import (
	"strings"
	"testing"

	"banger/internal/fault"
)

func TestFromEnv(t *testing.T) {
	for _, c := range []struct {
		name string
		env  map[string]string
		uid  int
		want Layout
	}{
		{"home", map[string]string{"BANGER_HOME": "/b", "HOME": "/h"}, 7, Layout{"/b/config", "/b/state", "/b/cache", "/b/run"}},
		{"xdg", map[string]string{"HOME": "/h", "XDG_STATE_HOME": "/s", "XDG_CACHE_HOME": "relative", "XDG_RUNTIME_DIR": "/run/user/7"}, 7,
			Layout{"/h/.config/banger", "/s/banger", "/h/.cache/banger", "/run/user/7/banger"}},
		{"root", map[string]string{"HOME": "/root"}, 0, Layout{"/etc/banger", "/var/lib/banger", "/var/cache/banger", "/run/banger"}},
	} {
		got, err := FromEnv(func(k string) string { return c.env[k] }, c.uid)
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", c.name, got, err, c.want)
		}
	}
	if _, err := FromEnv(func(string) string { return "" }, 7); err == nil {
		t.Error("FromEnv accepted an environment without HOME")
	}
}

// TestUnusable tries directories that apt's configuration cannot name.
func TestUnusable(t *testing.T) {
	for _, env := range []map[string]string{
		{"BANGER_HOME": `/b/a "b"`}, {"BANGER_HOME": "/b/a\nb"}, {"BANGER_HOME": "/b/\x7f"}, {"HOME": `/h"`}, {"HOME": "/h", "XDG_CACHE_HOME": "/c\t"},
		{"HOME": "h"}, {"HOME": "./h"},
	} {
		if l, err := FromEnv(func(k string) string { return env[k] }, 7); fault.KindOf(err) != fault.Invalid || fault.HintOf(err) == "" {
			t.Errorf("environment %q: got %+v, %v, want an error", env, l, err)
		}
	}
	for _, home := range []string{`/b/it's a\b`, "/b/ü,:;#$%*[]{}<>|&!", "/b/\xff"} {
		if _, err := FromEnv(func(string) string { return home }, 7); err != nil {
			t.Errorf("BANGER_HOME=%q was rejected: %v", home, err)
		}
	}
}

// TestNothingOutside resolves homes with a long path, and without XDG_RUNTIME_DIR. The temporary
// directory does not matter, and everything is below the home.
func TestNothingOutside(t *testing.T) {
	t.Setenv("TMPDIR", "/nonexistent")
	long := "/" + strings.Repeat("long/", 40)
	for _, env := range []map[string]string{{"BANGER_HOME": long}, {"HOME": long, "TMPDIR": "/nonexistent"}} {
		l, err := FromEnv(func(k string) string { return env[k] }, 7)
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range append(l.Roots(), l.Config) {
			if !strings.HasPrefix(dir, long) {
				t.Errorf("environment %v: %s is outside of the home", env, dir)
			}
		}
	}
}
