package testkit

import (
	"go/ast"
	"maps"
	"slices"
	"testing"
)

// Bounds of the product, without tests. A package is one directory.
const (
	maxPackageLines = 3500
	maxMethods      = 30
	maxPackageShare = 5 // no package has more than one in 5 lines of the product
)

// mayBeLarge holds packages and types above the bounds, each with a reason. Add none.
var mayBeLarge = map[string]string{
	"internal/vmm/vmmtest.suite": "it has a method for each claim of the driver contract",
}

// TestSizes keeps packages and types small enough to read as a whole.
func TestSizes(t *testing.T) {
	lines, methods, total := map[string]int{}, map[string]int{}, 0
	for _, f := range readSource(t, 0, "cmd", "internal") {
		if f.isTest() {
			continue
		}
		lines[f.dir] += f.lines()
		total += f.lines()
		for _, d := range f.ast.Decls {
			for name, n := range methodsOf(d) {
				methods[f.dir+"."+name] += n
			}
		}
	}
	large := map[string]bool{}
	check := func(name string, wrong bool, format string, args ...any) {
		if !wrong {
			return
		}
		large[name] = true
		if mayBeLarge[name] == "" {
			t.Errorf(format, args...)
		}
	}
	for _, pkg := range slices.Sorted(maps.Keys(lines)) {
		n := lines[pkg]
		check(pkg, n > maxPackageLines, "%s has %d lines without tests; at most %d are allowed", pkg, n, maxPackageLines)
		check(pkg, n*maxPackageShare > total, "%s has %d of the product's %d lines, which is more than one in %d", pkg, n, total, maxPackageShare)
	}
	for _, name := range slices.Sorted(maps.Keys(methods)) {
		check(name, methods[name] > maxMethods, "%s has %d methods; at most %d are allowed", name, methods[name], maxMethods)
	}
	for name, why := range mayBeLarge {
		if !large[name] {
			t.Errorf("%s is within the bounds; remove it from mayBeLarge (%s)", name, why)
		}
	}
}

// methodsOf counts the methods that a declaration adds to the types of its package.
func methodsOf(d ast.Decl) map[string]int {
	found := map[string]int{}
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Recv != nil {
			found[receiver(d.Recv.List[0].Type)]++
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			if s, ok := spec.(*ast.TypeSpec); ok {
				if face, ok := s.Type.(*ast.InterfaceType); ok {
					found[s.Name.Name] = face.Methods.NumFields()
				}
			}
		}
	}
	return found
}

// receiver returns the name of a method's type.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}
