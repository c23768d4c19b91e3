package testkit

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// opensItself holds the files that open paths without package regular, and why that cannot wait for
// a FIFO for ever.
var opensItself = map[string]string{
	"internal/disk/disk.go":             "directories only",
	"internal/image/install.go":         "a file that was made just now",
	"internal/initramfs/cache.go":       "directories only",
	"internal/api/openapi/main.go":      "a generator of the source",
	"internal/cli/gen/main.go":          "a generator of the source",
	"internal/machine/priority.go":      "a file of the kernel",
	"internal/kernel/build.go":          "a directory that was made just now",
	"internal/kernel/deb.go":            "a file that was made just now",
	"internal/snapshot/directory.go":    "directories only",
	"internal/store/backup.go":          "a file or directory that was made just now",
	"internal/guest/channel/serial":     "in the guest: a file of the kernel",
	"internal/cli/transfer/content.go":  "a person's input, which may be a pipe",
	"internal/cli/transfer/snapshot.go": "a person's input, which may be a pipe",
}

// withFlags are flags with which opening waits for nothing: O_RDWR opens a FIFO at once (fifo(7)).
var withFlags = []string{"O_EXCL", "O_NONBLOCK", "O_DIRECTORY", "O_RDWR"}

// TestOpensWaitForNobody finds product code that opens files without package regular.
func TestOpensWaitForNobody(t *testing.T) {
	used := map[string]bool{}
	for _, f := range readSource(t, parser.SkipObjectResolution, "cmd", "internal") {
		skip := func(dir string) bool { return f.dir == dir || strings.HasPrefix(f.dir, dir+"/") }
		if f.isTest() || skip("internal/guest/agent") || skip("internal/testkit") || skip("internal/vmm/vmmtest") || skip("internal/vmm/fake") {
			continue
		}
		consts := stringConsts(f.ast)
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || !opens(call, consts) {
				return true
			}
			for _, key := range []string{f.path, f.dir} {
				if opensItself[key] != "" {
					used[key] = true
					return true
				}
			}
			t.Errorf("%s: use package regular, which does not wait for a FIFO, or add the file to opensItself", f.fset.Position(call.Pos()))
			return true
		})
	}
	for key := range opensItself {
		if !used[key] {
			t.Errorf("opensItself does not need %s", key)
		}
	}
}

// opens reports whether a call opens a path that may be a FIFO.
func opens(call *ast.CallExpr, consts map[string]string) bool {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || len(call.Args) == 0 {
		return false
	}
	if pkg, ok := sel.X.(*ast.Ident); !ok || pkg.Name != "os" || !slices.Contains([]string{"Open", "ReadFile", "OpenFile", "WriteFile", "Create"}, sel.Sel.Name) {
		return false
	}
	if sel.Sel.Name == "OpenFile" {
		found := false
		ast.Inspect(call.Args[1], func(n ast.Node) bool {
			id, ok := n.(*ast.Ident)
			found = found || ok && slices.Contains(withFlags, id.Name)
			return true
		})
		if found {
			return false
		}
	}
	first := call.Args[0]
	for {
		sum, ok := first.(*ast.BinaryExpr)
		if !ok {
			break
		}
		first = sum.X
	}
	switch x := first.(type) {
	case *ast.BasicLit:
		return !isKernels(x.Value)
	case *ast.SelectorExpr:
		return x.Sel.Name != "DevNull"
	case *ast.Ident:
		return !isKernels(consts[x.Name])
	}
	return true
}

// isKernels reports whether a quoted path leads to a file of the kernel.
func isKernels(quoted string) bool {
	path, err := strconv.Unquote(quoted)
	return err == nil && (strings.HasPrefix(path, "/proc/") || strings.HasPrefix(path, "/sys/") || strings.HasPrefix(path, "/dev/"))
}

// stringConsts returns the quoted values of a file's string constants.
func stringConsts(f *ast.File) map[string]string {
	values := map[string]string{}
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Names) != len(spec.Values) {
			return true
		}
		for i, name := range spec.Names {
			if lit, ok := spec.Values[i].(*ast.BasicLit); ok && lit.Kind == token.STRING {
				values[name.Name] = lit.Value
			}
		}
		return true
	})
	return values
}
