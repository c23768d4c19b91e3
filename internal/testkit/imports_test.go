package testkit

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mayImport says which packages of this module a package's code may import, tests aside: the direction of the architecture. A key also stands for
// the packages below it that have no key of their own. "x/..." is x and all below it.
var mayImport = map[string][]string{
	"cmd/banger":       {"cli"},
	"cmd/bangerd":      {"daemon", "fault", "paths", "version"},
	"cmd/banger-agent": {"guest/agent"},

	// Leaves.
	"fault":       {},
	"flock":       {},
	"step":        {},
	"version":     {},
	"guest/proto": {},
	"initramfs":   {},

	"model":         {"guest/proto"},
	"paths":         {"fault"},
	"guest/archive": {"fault"},
	"guest/channel": {"fault", "guest/proto"},
	"guest/agent":   {"fault", "guest/..."},

	// The deep package, and what it asks for. It knows contracts only: no driver, no store, no API.
	"vmm": {"model"},
	"vm":  {"disk", "fault", "guest/proto", "model", "paths", "snapshot", "step", "vmm"},

	// What implements the contracts.
	"disk":        {"fault", "model"},
	"store":       {"fault", "model"},
	"snapshot":    {"disk", "fault", "model"},
	"image":       {"disk", "fault", "guest/archive", "model", "paths", "step"},
	"kernel":      {"disk", "fault", "initramfs", "model", "paths", "step"},
	"guest":       {"fault", "guest/...", "initramfs", "model", "step", "vm", "vmm"},
	"vmm/fake":    {"fault", "guest/...", "model", "vmm"},
	"vmm/vmmtest": {"fault", "guest/...", "initramfs", "model", "testkit", "vmm"},
	"vmm/console": {},
	"vmm/process": {"fault", "flock"},
	"vmm/qemu":    {"fault", "guest/proto", "initramfs", "model", "paths", "vmm", "vmm/console", "vmm/process", "vmm/qemu/..."},
	"capability":  {"disk", "fault", "guest/proto", "model", "paths", "vm", "vmm"},

	// The outside.
	"config":      {"fault", "model", "paths"},
	"doctor":      {"config", "fault", "model", "paths", "vmm", "vmm/qemu"},
	"api":         {"fault", "flock", "guest/proto", "model", "paths", "step"},
	"api/openapi": {"api", "fault", "guest/proto", "model", "step"},
	"api/server":  {"api", "fault", "guest/...", "model", "paths", "step", "vm", "vmm/console"},
	"cli":         {"api", "cli/...", "config", "doctor", "fault", "guest/archive", "guest/proto", "model", "paths", "step", "version"},
	"testkit":     {},
}

// mayNotReach says what must not be in a program, however it would come in: by size, by what it could do, or by whose business it is.
var mayNotReach = map[string][]string{
	"cmd/banger": {
		"internal/daemon", "internal/vm", "internal/store", "internal/image", "internal/kernel", "internal/api/server", "internal/capability",
		"modernc.org/sqlite", "github.com/google/go-containerregistry", "github.com/Microsoft/hcsshim",
	},
	"cmd/bangerd": {"internal/cli", "github.com/spf13/cobra", "internal/guest/agent", "testing"},
	"cmd/banger-agent": {
		"internal/model", "internal/vm", "internal/vmm", "internal/api", "internal/store", "internal/paths", "internal/disk",
		"internal/image", "internal/kernel", "internal/config", "internal/daemon", "internal/cli", "github.com/spf13/cobra", "modernc.org/sqlite", "os/user",
	},
}

const module = "banger/"

// TestImportDirections holds the packages to the tables above.
func TestImportDirections(t *testing.T) {
	imports := readImports(t)
	for _, pkg := range slices.Sorted(maps.Keys(imports)) {
		key, known := ruleOf(pkg)
		if !known {
			if pkg != "internal/daemon" { // it wires everything
				t.Errorf("%s: no rule says what it may import; add one to mayImport", pkg)
			}
			continue
		}
		for _, imported := range imports[pkg] {
			local, ok := strings.CutPrefix(imported, module)
			if ok && local != pkg && !slices.ContainsFunc(mayImport[key], func(rule string) bool { return covers("internal/"+rule, local) }) {
				t.Errorf("%s must not import %s", pkg, local)
			}
		}
	}
}

// TestImportReach looks at whole programs.
func TestImportReach(t *testing.T) {
	imports := readImports(t)
	for program, banned := range mayNotReach {
		via := map[string]string{program: ""} // package to who imports it
		queue := []string{program}
		for len(queue) > 0 {
			pkg := queue[0]
			queue = queue[1:]
			for _, imported := range imports[pkg] {
				local := strings.TrimPrefix(imported, module)
				if _, seen := via[local]; seen {
					continue
				}
				via[local] = pkg
				queue = append(queue, local)
				if slices.ContainsFunc(banned, func(b string) bool { return local == b || strings.HasPrefix(local, b+"/") }) {
					t.Errorf("%s must not reach %s, and does by way of %s", program, local, chain(via, pkg))
				}
			}
		}
	}
}

// chain is the way from a program to a package.
func chain(via map[string]string, pkg string) string {
	if via[pkg] == "" {
		return pkg
	}
	return chain(via, via[pkg]) + " > " + pkg
}

// ruleOf finds the longest key of mayImport that stands for a package.
func ruleOf(pkg string) (key string, ok bool) {
	for path := strings.TrimPrefix(pkg, "internal/"); path != "."; path = filepath.Dir(path) {
		if _, ok := mayImport[path]; ok {
			return path, true
		}
	}
	return "", false
}

func covers(rule, pkg string) bool {
	if tree, ok := strings.CutSuffix(rule, "/..."); ok {
		return pkg == tree || strings.HasPrefix(pkg, tree+"/")
	}
	return pkg == rule
}

// readImports returns what each package's code imports, tests and testdata aside, by the folder below the module's root.
func readImports(t *testing.T) map[string][]string {
	t.Helper()
	root := SourceRoot()
	imports := map[string][]string{}
	for _, top := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && d.Name() == "testdata":
				return filepath.SkipDir
			case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
				return nil
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			dir, err := filepath.Rel(root, filepath.Dir(path))
			if err != nil {
				return err
			}
			imports[dir] = append(imports[dir], []string{}...) // also a package without imports needs a rule
			for _, spec := range file.Imports {
				name, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					return err
				}
				if !slices.Contains(imports[dir], name) {
					imports[dir] = append(imports[dir], name)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return imports
}
