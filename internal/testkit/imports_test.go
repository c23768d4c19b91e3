package testkit

import (
	"go/parser"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mayImport holds which packages of this module a package may import, without tests. A key also
// stands for packages below it without a key. "x/..." is x and all packages below it.
var mayImport = map[string][]string{
	"cmd/banger":       {"cli"},
	"cmd/bangerd":      {"daemon", "descriptor", "fault", "paths", "version"},
	"cmd/banger-agent": {"guest/agent"},

	// These import nothing.
	"fault":       {},
	"flock":       {},
	"step":        {},
	"version":     {},
	"guest/proto": {},
	"requestid":   {},
	"socket":      {},
	"descriptor":  {},
	"openssh":     {},
	"pattern":     {},

	"metric":  {"step"},
	"regular": {"fault"},
	"oplock":  {"fault", "pace"},

	"firstboot":      {"guest/proto"},
	"network/policy": {"fault"},
	"initramfs":      {"regular"},
	"pace":           {"fault", "step"},

	"model":         {"guest/proto", "pattern"},
	"limit":         {"fault", "model", "regular"},
	"paths":         {"fault"},
	"home":          {"fault", "flock", "model", "paths", "regular", "socket"},
	"guest/report":  {"fault", "guest/proto"},
	"guest/archive": {"fault", "guest/report"},
	"guest/channel": {"fault", "guest/proto", "socket"}, // also the transports below it
	"guest/relay":   {"fault", "guest/proto", "guest/report"},
	"guest/agent":   {"fault", "guest/...", "regular"},

	// The core and its contracts. It knows no driver, no store and no API.
	"vmm": {"fault", "model"},

	"machine":          {"disk", "fault", "guest/proto", "guest/report", "limit", "model", "oplock", "pace", "paths", "snapshot", "step", "vmdir", "vmm"},
	"template":         {"disk", "fault", "firstboot", "guest/proto", "guest/relay", "machine", "model", "pace", "regular", "snapshot", "step"},
	"snapshot/library": {"disk", "fault", "model", "pattern", "snapshot", "snapshot/seal", "step", "vmm"},
	"snapshot/seal":    {"disk", "fault", "snapshot"},
	"vm/moment":        {"disk", "fault", "machine", "model", "paths", "regular", "snapshot", "snapshot/library", "step", "vmm"},
	"vm/record":        {"fault", "machine", "model", "oplock", "pace", "vm/explain"},
	"vm/room":          {"fault", "model"},
	"vm/uses":          {"fault", "model", "paths", "snapshot", "vmdir"},
	"vm/parts":         {"fault", "limit", "machine", "model", "step", "vm/explain", "vmm"},
	"vm/explain":       {"fault", "limit", "machine", "model", "paths", "step", "vmm"},
	"vm": {
		"disk", "fault", "guest/proto", "machine", "model", "oplock", "pace", "paths", "snapshot", "snapshot/library", "step", "template",
		"vm/...", "vmdir", "vmm", "vmm/console",
	},

	"space": {"disk", "fault", "model", "vmm"},

	// The implementations of the contracts.
	"disk":        {"fault", "limit", "model", "regular"},
	"store":       {"fault", "model", "regular"},
	"vmdir":       {"disk", "fault", "home", "model", "paths", "regular", "vmm/process"},
	"rescue":      {"disk", "fault", "home", "model", "paths", "store", "vmdir"},
	"snapshot":    {"disk", "fault", "model", "regular"},
	"image":       {"disk", "fault", "guest/archive", "image/rootfs", "model", "paths", "regular", "step"},
	"kernel":      {"disk", "fault", "initramfs", "model", "paths", "regular", "step"},
	"guest":       {"fault", "guest/...", "initramfs", "model", "pace", "requestid", "step", "vmm"},
	"vmm/fake":    {"fault", "guest/...", "model", "vmm"},
	"vmm/vmmtest": {"fault", "guest/...", "initramfs", "model", "pace", "testkit", "vmm"},
	"vmm/console": {"regular"},
	"vmm/memory":  {"fault"},
	"vmm/confine": {"fault", "model"},
	"vmm/output":  {"regular", "vmm/console", "vmm/process"},
	"vmm/process": {"fault", "flock"},
	"vmm/qemu":    {"fault", "guest/proto", "guest/report", "initramfs", "limit", "model", "oplock", "pace", "paths", "pattern", "regular", "socket", "step", "vmm", "vmm/confine", "vmm/console", "vmm/memory", "vmm/output", "vmm/process", "vmm/qemu/..."},
	"capability":  {"disk", "fault", "guest/proto", "machine", "model", "openssh", "paths", "regular", "vmm"},

	"image/rootfs": {"disk", "fault", "model", "step"},

	// The surfaces.
	"config":      {"fault", "home", "model", "paths", "pattern", "regular"},
	"doctor":      {"config", "fault", "home", "limit", "model", "openssh", "paths", "pattern", "regular", "vmdir", "vmm", "vmm/confine", "vmm/qemu"},
	"api":         {"descriptor", "fault", "flock", "guest/proto", "home", "model", "paths", "requestid", "socket", "step"},
	"api/session": {"fault", "model"},
	"api/openapi": {"api", "fault", "guest/proto", "model", "step"},
	"api/server":  {"api", "api/session", "disk", "fault", "guest/...", "home", "machine", "model", "pace", "paths", "requestid", "socket", "step", "vmm/console"},
	"cli":         {"api", "cli/...", "doctor", "fault", "guest/proto", "limit", "model", "openssh", "paths", "regular", "step", "version"},

	// What the CLI's commands are made from, from the bottom up.
	"cli/ui":       {"step"},
	"cli/logfile":  {"regular"},
	"cli/session":  {"api", "guest/proto", "step"},
	"cli/bundle":   {"api", "fault", "model", "paths", "regular"},
	"cli/transfer": {"api", "cli/ui", "fault", "guest/archive", "regular", "step"},
	"cli/command":  {"api", "cli/session", "cli/ui", "config", "fault", "limit", "model", "paths", "step"},
	"cli/item":     {"api", "cli/command", "cli/ui", "fault", "model", "step"},
	"cli/render":   {"api", "cli/ui", "config", "doctor", "model", "step", "vmm"},
	"cli/vmflag":   {"cli/command", "cli/render", "config", "fault", "model"},
	"cli/gen":      {"cli", "cli/command"},

	"testkit": {"pace"},
}

// mayNotReach holds what a program must not contain: it is too large, too powerful, or not its
// task.
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

// layers are the packages of this module from the programs down, with keys as in mayImport. A
// package imports its own layer and those below. The compiler excludes cycles within a layer.
var layers = []struct {
	name     string
	packages []string
}{
	{"programs", []string{"cmd/banger", "cmd/bangerd", "cmd/banger-agent"}},
	{"wiring", []string{"daemon"}},
	{"surfaces", []string{"cli", "api/server", "api/openapi", "doctor"}},
	{"implementations of contracts", []string{"capability", "guest", "vmm/vmmtest"}},
	{"virtual machines with records", []string{"vm"}},
	{"parts of their operations", []string{"vm/moment", "vm/explain", "vm/record", "vm/room", "vm/uses", "vm/parts"}},
	{"templates", []string{"template"}},
	{"saved machines by name", []string{"snapshot/library"}},
	{"whose saved machines are", []string{"snapshot/seal"}},
	{"machines without records", []string{"machine"}},
	{"drivers", []string{"vmm/qemu", "vmm/fake"}},
	{"recovery of records", []string{"rescue"}},
	{"stores", []string{"image", "kernel", "snapshot", "space", "store", "vmdir"}},
	{"contracts", []string{"vmm", "api", "config", "guest/agent", "metric"}},
	{"mechanisms", []string{"oplock", "firstboot", "network/policy", "pace", "disk", "initramfs", "vmm/confine", "guest/archive", "guest/channel", "guest/relay", "guest/report", "paths", "descriptor", "flock", "home", "limit", "openssh", "regular", "socket", "api/session", "testkit"}},
	{"words", []string{"requestid", "model", "step", "guest/proto", "fault", "pattern", "version"}},
}

const module = "banger/"

// TestImportDirections compares all imports with mayImport.
func TestImportDirections(t *testing.T) {
	imports := readImports(t)
	for _, pkg := range slices.Sorted(maps.Keys(imports)) {
		key, known := keyOf(mayImport, pkg)
		if !known {
			if pkg != "internal/daemon" { // it wires all packages
				t.Errorf("mayImport has no rule for %s; add one", pkg)
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

// TestImportLayers checks that no import points upwards in layers.
func TestImportLayers(t *testing.T) {
	layer := map[string]int{}
	for i, l := range layers {
		for _, pkg := range l.packages {
			layer[pkg] = i
		}
	}
	imports := readImports(t)
	for _, pkg := range slices.Sorted(maps.Keys(imports)) {
		key, known := keyOf(layer, pkg)
		if !known {
			t.Errorf("%s is in no layer; add it to layers", pkg)
			continue
		}
		for _, imported := range imports[pkg] {
			local, ours := strings.CutPrefix(imported, module)
			if !ours {
				continue
			}
			if above, known := keyOf(layer, local); known && layer[above] < layer[key] {
				t.Errorf("%s (%s) imports %s, which is above it (%s)", pkg, layers[layer[key]].name, local, layers[layer[above]].name)
			}
		}
	}
}

// TestImportReach follows the imports of whole programs.
func TestImportReach(t *testing.T) {
	imports := readImports(t)
	for program, banned := range mayNotReach {
		via := map[string]string{program: ""} // package to its importer
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
					t.Errorf("%s must not contain %s, but imports it through %s", program, local, chain(via, pkg))
				}
			}
		}
	}
}

// chain returns the imports that lead from a program to a package.
func chain(via map[string]string, pkg string) string {
	if via[pkg] == "" {
		return pkg
	}
	return chain(via, via[pkg]) + " > " + pkg
}

// keyOf returns the longest key of a table that stands for a package.
func keyOf[V any](table map[string]V, pkg string) (key string, ok bool) {
	for path := strings.TrimPrefix(pkg, "internal/"); path != "."; path = filepath.Dir(path) {
		if _, ok := table[path]; ok {
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

// readImports returns what each package's code imports, without tests, by directory.
func readImports(t *testing.T) map[string][]string {
	t.Helper()
	imports := map[string][]string{}
	for _, f := range readSource(t, parser.ImportsOnly, "cmd", "internal") {
		if f.isTest() {
			continue
		}
		imports[f.dir] = append(imports[f.dir], []string{}...) // without imports too
		for _, spec := range f.ast.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(imports[f.dir], name) {
				imports[f.dir] = append(imports[f.dir], name)
			}
		}
	}
	return imports
}
