package paths

import (
	"path/filepath"
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

func TestSocketsFit(t *testing.T) {
	for _, home := range []string{"/b", "/" + strings.Repeat("long/", 40)} {
		a, b := At(home, 7), At(home+"x", 7)
		sock := filepath.Join(a.VM("0123456789abcdef").Run, "agent.sock")
		if len(sock) > maxSocket {
			t.Errorf("the socket name %s has %d characters, which is too long", sock, len(sock))
		}
		if a.Runtime == b.Runtime {
			t.Error("two homes share sockets")
		}
	}
}
