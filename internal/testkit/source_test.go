package testkit

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// sourceFile is a parsed Go file of this module.
type sourceFile struct {
	path string // below the module's root
	dir  string // likewise
	fset *token.FileSet
	ast  *ast.File
}

func (f sourceFile) isTest() bool { return strings.HasSuffix(f.path, "_test.go") }

// lines returns the number of lines.
func (f sourceFile) lines() int { return f.fset.File(f.ast.Pos()).LineCount() }

// readSource parses all Go files below some directories of the module, without testdata.
func readSource(t *testing.T, mode parser.Mode, tops ...string) []sourceFile {
	t.Helper()
	root := SourceRoot()
	var files []sourceFile
	for _, top := range tops {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && d.Name() == "testdata":
				return filepath.SkipDir
			case d.IsDir() || !strings.HasSuffix(path, ".go"):
				return nil
			}
			fset := token.NewFileSet()
			parsed, err := parser.ParseFile(fset, path, nil, mode)
			if err != nil {
				return err
			}
			below, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			files = append(files, sourceFile{path: below, dir: filepath.Dir(below), fset: fset, ast: parsed})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}
