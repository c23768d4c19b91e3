package agent

import (
	"os/exec"
	"strings"
	"testing"

	"banger/internal/testkit"
)

// TestImports: the agent is a small program and contains none of the host's packages. Add a package
// only if the guest needs it.
func TestImports(t *testing.T) {
	testkit.RequireTool(t, "go")
	allowed := map[string]bool{
		"banger/cmd/banger-agent": true, "banger/internal/fault": true, "banger/internal/guest/proto": true,
		"banger/internal/guest/channel": true, "banger/internal/guest/channel/serial": true, "banger/internal/guest/channel/vsock": true,
		"banger/internal/guest/archive": true, "banger/internal/guest/report": true, "banger/internal/version": true,
		"banger/internal/regular": true,
		"banger/internal/socket":  true, // the transports' packages also hold the host's end
	}
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "banger/cmd/banger-agent").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range strings.Fields(string(out)) {
		if strings.HasPrefix(path, "banger/") && !allowed[path] && !strings.HasPrefix(path, "banger/internal/guest/agent") {
			t.Errorf("the agent imports %s", path)
		}
	}
}
