package firstboot_test

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	"banger/internal/firstboot"
	"banger/internal/guest/proto"
)

func TestJudge(t *testing.T) {
	many := make([]string, 100)
	for i := range many {
		many[i] = fmt.Sprint("/etc/secret-", i)
	}
	for name, c := range map[string]struct {
		writes proto.Writes
		shared []string
		cut    bool
	}{
		"nothing": {},
		"an identity": {writes: proto.Writes{Paths: []string{
			"/etc/hostname", "/etc/hosts", "/etc/machine-id", "/var/lib/dbus/machine-id", "/var/lib/systemd/random-seed",
		}}},
		"systemd": {writes: proto.Writes{Paths: []string{
			"/etc/.updated", "/var/lib/systemd/timers/stamp-apt-daily.timer",
		}, Links: []string{"/etc/systemd/system/multi-user.target.wants/cron.service", "/etc/ssl/certs/0f5dc4f3.0", "/etc/localtime"}}},
		"a unit with a secret":          {proto.Writes{Paths: []string{"/etc/systemd/system/app.service"}}, []string{"/etc/systemd/system/app.service"}, false},
		"a key beside the certificates": {proto.Writes{Paths: []string{"/etc/ssl/certs/key.pem"}}, []string{"/etc/ssl/certs/key.pem"}, false},
		"a link elsewhere":              {proto.Writes{Links: []string{"/etc/app/key"}}, []string{"/etc/app/key"}, false},
		"outside of /etc":               {proto.Writes{Paths: []string{"/opt/app/key", "/usr/local/key", "/home/a/.ssh/id"}}, []string{"/opt/app/key", "/usr/local/key", "/home/a/.ssh/id"}, false},
		"a key":                         {proto.Writes{Paths: []string{"/etc/app/key"}}, []string{"/etc/app/key"}, false},
		"ssh host keys":                 {proto.Writes{Paths: []string{"/etc/ssh/ssh_host_rsa_key"}}, []string{"/etc/ssh/ssh_host_rsa_key"}, false},
		"systemd's own secret":          {proto.Writes{Paths: []string{"/var/lib/systemd/credential.secret"}}, []string{"/var/lib/systemd/credential.secret"}, false},
		"beside a harmless one":         {proto.Writes{Paths: []string{"/etc/hostname.secret", "/etc/hosts/key"}}, []string{"/etc/hostname.secret", "/etc/hosts/key"}, false},
		"out of a harmless one":         {proto.Writes{Paths: []string{"/var/lib/apt/../app/key"}}, []string{"/var/lib/app/key"}, false},
		"a key that is renewed":         {writes: proto.Writes{Paths: []string{"/etc/app/key"}, Renewed: []string{"/etc/app/key"}}},
		"a directory is renewed":        {writes: proto.Writes{Paths: []string{"/etc/app/a/key"}, Renewed: []string{"/etc/app/"}}},
		"another one is renewed":        {proto.Writes{Paths: []string{"/etc/app/key"}, Renewed: []string{"/etc/app", "/etc/app/k", "/"}}, []string{"/etc/app/key"}, false},
		"no end":                        {proto.Writes{More: true}, nil, true},
		"many":                          {proto.Writes{Paths: many}, many[:16], true},
	} {
		v := firstboot.Judge(c.writes)
		if !slices.Equal(v.Shared, c.shared) {
			t.Errorf("%s: shared are %q, want %q", name, v.Shared, c.shared)
		}
		if v.Cut != c.cut {
			t.Errorf("%s: the verdict is cut: %v, want %v", name, v.Cut, c.cut)
		}
		if v.Harmless() != (len(c.shared) == 0 && !c.cut) {
			t.Errorf("%s: the verdict is harmless: %v", name, v.Harmless())
		}
	}
}

// FuzzJudge checks that no report is harmless that names a file outside of all lists.
func FuzzJudge(f *testing.F) {
	f.Add("/etc/hostname", "/etc/app/key", "/etc/app/")
	f.Add("/var/lib/apt/../x", "", "/")
	f.Add("//etc//hosts", "\x00", "//")
	f.Fuzz(func(t *testing.T, a, b, renewed string) {
		v := firstboot.Judge(proto.Writes{Paths: []string{a, b, "/root/secret"}, Renewed: []string{renewed}})
		covers := renewed == "/root/secret" || strings.HasSuffix(renewed, "/") && len(renewed) > 1 && strings.HasPrefix("/root/secret", renewed)
		if v.Harmless() != false && !covers {
			t.Errorf("a report with a secret is harmless: %q %q %q", a, b, renewed)
		}
		for _, file := range v.Shared {
			if path.Clean(file) != file || !path.IsAbs(file) {
				t.Errorf("the verdict names %q", file)
			}
		}
	})
}
