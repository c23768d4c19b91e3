package doctor

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/openssh"
	"banger/internal/testkit"
)

// TestSSH has OpenSSH itself read configurations.
func TestSSH(t *testing.T) {
	testkit.RequireTool(t, "ssh")
	dir := t.TempDir()
	ours := filepath.Join(dir, "banger")
	guest := openssh.Guest{Proxy: "banger vm proxy %h", Key: "/id", KnownHosts: "/known_hosts"}
	if err := os.WriteFile(ours, []byte(guest.Config()), 0o600); err != nil {
		t.Fatal(err)
	}
	include := openssh.Include(ours)
	const all = "Host *\n\tForwardAgent yes\n\tControlMaster auto\n"
	for _, c := range []struct {
		name, config string
		checks       int
		options      string // in the summary; "" for a pass
	}{
		{"not included", all, 0, ""},
		{"first", include + all, 1, ""},
		{"last", all + include, 1, "controlmaster, forwardagent"},
		{"options that are collected", include + "Host *\n\tRemoteForward 1 a:1\n\tSendEnv LANG TOKEN\n", 1, "remoteforward, sendenv"},
		{"as distributions have it", include + "Host *\n\tSendEnv LANG LC_*\n", 1, ""},
		{"with the advice", include + "Host * !*.vm\n\tForwardAgent yes\n\tSendEnv TOKEN\n", 1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(dir, "config")
			if err := os.WriteFile(file, []byte(c.config), 0o600); err != nil {
				t.Fatal(err)
			}
			env := Env{
				Tool: exec.LookPath,
				Output: func(ctx context.Context, name string, args ...string) ([]byte, error) {
					return exec.CommandContext(ctx, name, append([]string{"-F", file}, args...)...).Output()
				},
			}
			checks := checkSSH(t.Context(), env)
			if len(checks) != c.checks {
				t.Fatalf("got the checks %+v, want %d", checks, c.checks)
			}
			for _, check := range checks {
				want := Pass
				if c.options != "" {
					want = Warn
				}
				if check.Status != want || !strings.HasSuffix(check.Summary, c.options) {
					t.Errorf("the verdict is %s: %s; want %s with %q", check.Status, check.Summary, want, c.options)
				}
			}
		})
	}
}

// TestNoSSH has no ssh, and one that fails.
func TestNoSSH(t *testing.T) {
	for _, ssh := range []error{errors.New("missing"), nil} {
		env := Env{
			Tool:   func(string) (string, error) { return "/ssh", ssh },
			Output: func(context.Context, string, ...string) ([]byte, error) { return nil, errors.New("fails") },
		}
		if checks := checkSSH(t.Context(), env); len(checks) != 0 {
			t.Errorf("got the checks %+v, want none", checks)
		}
	}
}
