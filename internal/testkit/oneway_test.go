package testkit

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// oneWay holds the packages whose files must point one way. A value is the reason for an exception.
var oneWay = map[string]string{
	"internal/machine":          "",
	"internal/template":         "",
	"internal/snapshot/library": "",
	"internal/vm":               "",
	"internal/vm/explain":       "",
	"internal/vm/moment":        "",
	"internal/vm/record":        "",

	"internal/guest/agent":       "",
	"internal/guest/agent/mount": "",

	"internal/disk":     "",
	"internal/model":    "",
	"internal/snapshot": "",
}

// TestFilesPointOneWay orders the files of a package so that each refers only to itself and to
// later files. A reference uses a package-level name or a method. A method refers to its type.
func TestFilesPointOneWay(t *testing.T) {
	RequireTool(t, "go")
	var present []string
	for _, pkg := range slices.Sorted(maps.Keys(oneWay)) {
		if _, err := os.Stat(filepath.Join(SourceRoot(), pkg)); err == nil {
			present = append(present, pkg)
		}
	}
	load := newLoader(t, present)
	for _, pkg := range slices.Sorted(maps.Keys(oneWay)) {
		t.Run(pkg, func(t *testing.T) {
			if !slices.Contains(present, pkg) {
				t.Skip("the package does not exist yet")
			}
			order, up := load.references(t, pkg).order()
			switch {
			case len(up) == 0 && oneWay[pkg] != "":
				t.Errorf("the files of %s point one way now; remove its reason from oneWay", pkg)
			case len(up) == 0:
			case oneWay[pkg] != "":
				t.Skipf("not yet: %s\n%s", oneWay[pkg], report(order, up))
			default:
				t.Errorf("references between the files of %s make a cycle\n%s", pkg, report(order, up))
			}
		})
	}
}

// TestFilesPointOneWayFinds proves that the test above finds a cycle.
func TestFilesPointOneWayFinds(t *testing.T) {
	sources := map[string]string{
		"top.go":    "package p\nfunc (t *T) Do() { t.help() }\ntype T struct{ w worker }\n",
		"middle.go": "package p\nfunc (t *T) help() { leaf() }\ntype worker struct{}\n",
		"leaf.go":   "package p\nfunc leaf() { leaf() }\n",
	}
	for _, tt := range []struct{ name, want string }{{"cycle", "middle.go > top.go"}, {"no cycle", ""}} {
		if tt.want == "" {
			sources["middle.go"] = strings.ReplaceAll(sources["middle.go"], "(t *T) help()", "(w worker) help()")
			sources["top.go"] = strings.ReplaceAll(sources["top.go"], "t.help()", "t.w.help()")
		}
		fset := token.NewFileSet()
		var files []*ast.File
		for _, name := range slices.Sorted(maps.Keys(sources)) {
			f, err := parser.ParseFile(fset, name, sources[name], 0)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
		}
		refs, err := findReferences("p", fset, files, importer.Default())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		order, up := refs.order()
		for _, e := range up {
			got = append(got, e.from+" > "+e.to)
		}
		if strings.Join(got, ", ") != tt.want || order[len(order)-1] != "leaf.go" {
			t.Errorf("%s: upward references %q in the order %v, want %q and leaf.go last", tt.name, got, order, tt.want)
		}
	}
}

// loader reads packages with the types of everything that they import.
type loader struct {
	files   map[string][]string // source files by package
	exports map[string]string   // files of export data by import path
}

// newLoader asks the go command, which compiles what the packages import.
func newLoader(t *testing.T, packages []string) loader {
	t.Helper()
	args := []string{"list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}\t{{.Dir}}\t{{join .GoFiles \" \"}}"}
	for _, pkg := range packages {
		args = append(args, "./"+pkg)
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = SourceRoot()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, stderr.String())
	}
	l := loader{files: map[string][]string{}, exports: map[string]string{}}
	for line := range strings.Lines(string(out)) {
		field := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		l.exports[field[0]] = field[1]
		if pkg, ours := strings.CutPrefix(field[0], module); ours {
			for _, name := range strings.Fields(field[3]) {
				l.files[pkg] = append(l.files[pkg], filepath.Join(field[2], name))
			}
		}
	}
	return l
}

func (l loader) references(t *testing.T, pkg string) references {
	t.Helper()
	fset := token.NewFileSet()
	var files []*ast.File
	for _, path := range l.files[pkg] {
		f, err := parser.ParseFile(fset, path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	lookup := func(path string) (io.ReadCloser, error) { return os.Open(l.exports[path]) }
	refs, err := findReferences(pkg, fset, files, importer.ForCompiler(fset, "gc", lookup))
	if err != nil {
		t.Fatal(err)
	}
	return refs
}

// edge is all references from one file to another.
type edge struct {
	from, to string
	count    int
	example  string
}

// references are the edges between the files of a package: from, to.
type references map[string]map[string]*edge

// findReferences type-checks a package and returns the references between its files.
func findReferences(pkg string, fset *token.FileSet, files []*ast.File, imports types.Importer) (references, error) {
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	checked, err := (&types.Config{Importer: imports}).Check(pkg, fset, files, info)
	if err != nil {
		return nil, err
	}
	refs := references{}
	file := func(pos token.Pos) string { return filepath.Base(fset.Position(pos).Filename) }
	for _, f := range files {
		refs[file(f.Pos())] = map[string]*edge{}
	}
	for ident, object := range info.Uses {
		if f, ok := object.(*types.Func); ok {
			object = f.Origin()
		}
		if object.Pkg() != checked || !isDeclaration(object) {
			continue
		}
		from, to := file(ident.Pos()), file(object.Pos())
		if from == to {
			continue
		}
		example := fmt.Sprintf("%s:%d uses %s", from, fset.Position(ident.Pos()).Line, object.Name())
		e := refs[from][to]
		if e == nil {
			e = &edge{from: from, to: to, example: example}
			refs[from][to] = e
		}
		e.count++
		e.example = min(e.example, example) // map order must not decide
	}
	return refs, nil
}

// isDeclaration reports whether an object is a package-level name or a method.
func isDeclaration(object types.Object) bool {
	if f, ok := object.(*types.Func); ok && f.Signature().Recv() != nil {
		return true
	}
	return object.Parent() == object.Pkg().Scope()
}

// order returns the files in an order with few upward edges, and those edges. It is greedy, but it
// finds an order without upward edges if there is one.
func (r references) order() (order []string, up []edge) {
	left := map[string]bool{}
	for name := range r {
		left[name] = true
	}
	degree := func(name string) (in, out int) {
		for other := range left {
			if e := r[other][name]; e != nil {
				in += e.count
			}
			if e := r[name][other]; e != nil {
				out += e.count
			}
		}
		return in, out
	}
	var last []string
	for len(left) > 0 {
		best, bestScore, end := "", 0, false
		for _, name := range slices.Sorted(maps.Keys(left)) {
			in, out := degree(name)
			if out == 0 { // only other files refer to it
				best, end = name, true
				break
			}
			if in == 0 {
				best, end = name, false
				break
			}
			if best == "" || out-in > bestScore {
				best, bestScore = name, out-in
			}
		}
		delete(left, best)
		if end {
			last = append(last, best)
		} else {
			order = append(order, best)
		}
	}
	slices.Reverse(last)
	order = append(order, last...)
	for i, from := range order {
		for _, to := range order[:i] {
			if e := r[from][to]; e != nil {
				up = append(up, *e)
			}
		}
	}
	return order, up
}

func report(order []string, up []edge) string {
	var b strings.Builder
	fmt.Fprintf(&b, "the best order is %s\n%d of its edges point upwards:\n", strings.Join(order, ", "), len(up))
	for _, e := range up {
		fmt.Fprintf(&b, "  %s > %s: %d references, such as %s\n", e.from, e.to, e.count, e.example)
	}
	return b.String()
}
