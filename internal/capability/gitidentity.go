package capability

import (
	"context"
	"fmt"
	"log/slog"
	"os/exec"
	"strings"
	"time"

	"banger/internal/guest/proto"
	"banger/internal/machine"
)

// GitIdentity gives the guest's root the host user's git identity, so that commits made in a VM are
// that user's. A configuration that the guest has already is left alone.
type GitIdentity struct {
	Log *slog.Logger
}

// Name implements machine.Capability.
func (GitIdentity) Name() string { return "git-identity" }

const gitTimeout = 5 * time.Second

// ContributeGuest implements machine.GuestContributor. A host without git, or a user without an
// identity, contributes nothing.
func (g GitIdentity) ContributeGuest(ctx context.Context, req machine.GuestRequest) error {
	ctx, cancel := context.WithTimeout(ctx, gitTimeout)
	defer cancel()
	// -z: values may hold anything but NUL. Exit status 1 means that neither is set.
	out, err := exec.CommandContext(ctx, "git", "config", "--global", "-z", "--get-regexp", `^user\.(name|email)$`).Output()
	if err != nil {
		g.Log.DebugContext(ctx, "no git identity to pass on", "error", err)
		return nil
	}
	if config := gitConfig(string(out)); config != "" {
		req.Assume.Files = append(req.Assume.Files, proto.File{Path: "/root/.gitconfig", Mode: 0o644, Data: []byte(config), Keep: true})
	}
	return nil
}

// gitConfig turns the output of `git config -z --get-regexp` into a configuration file. Of a key
// that is set more than once the last value counts, as with git.
func gitConfig(out string) string {
	values := map[string]string{}
	for entry := range strings.SplitSeq(out, "\x00") {
		if key, value, ok := strings.Cut(entry, "\n"); ok {
			values[strings.TrimPrefix(key, "user.")] = value
		}
	}
	var b strings.Builder
	for _, key := range []string{"name", "email"} {
		if v := values[key]; v != "" {
			fmt.Fprintf(&b, "\t%s = %s\n", key, gitQuote(v))
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return "[user]\n" + b.String()
}

// gitQuote quotes a value as git-config(1), "Syntax", has it.
func gitQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`, "\b", `\b`).Replace(s) + `"`
}
