package cli

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"banger/internal/testkit"
)

// TestImports keeps the program small and quick to start: it must not import the daemon's packages.
func TestImports(t *testing.T) {
	testkit.RequireTool(t, "go")
	out, err := exec.Command("go", "list", "-deps", "banger/cmd/banger").Output()
	if err != nil {
		t.Fatal(err)
	}
	allowed := []string{
		"banger/cmd/banger", "banger/internal/",
		"github.com/spf13/cobra", "github.com/spf13/pflag", "github.com/pelletier/go-toml/v2", "golang.org/x/sync/errgroup", "golang.org/x/sys/", "golang.org/x/term",
	}
	forbidden := []string{
		"banger/internal/api/server", "banger/internal/vm", "banger/internal/store", "banger/internal/image", "banger/internal/kernel",
		"banger/internal/capability", "banger/internal/daemon", "html/template",
	}
	begins := func(list []string, pkg string) bool {
		return slices.ContainsFunc(list, func(p string) bool { return strings.HasPrefix(pkg, p) })
	}
	for _, pkg := range strings.Fields(string(out)) {
		first, _, _ := strings.Cut(pkg, "/")
		foreign := strings.Contains(first, ".") || first == "banger"
		if foreign && !begins(allowed, pkg) || slices.Contains(forbidden, pkg) {
			t.Errorf("banger imports %s, which makes it large and slow to start", pkg)
		}
	}
}
