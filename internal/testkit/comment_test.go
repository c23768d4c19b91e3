package testkit

import (
	"fmt"
	"go/ast"
	"go/parser"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Bounds of comments. Longer reasons belong in the package comment or in docs/internals.
const (
	maxCommentColumns = 100 // with tabs of 4 columns
	maxCommentLines   = 3   // not for package comments
)

// wordy are directories whose comments, and those of all packages below, may still be too long.
var wordy = []string{}

// TestComments keeps comments short.
func TestComments(t *testing.T) {
	left := map[string]int{}
	for _, f := range readSource(t, parser.ParseComments, "cmd", "internal", "e2e", "bench") {
		text, err := os.ReadFile(filepath.Join(SourceRoot(), f.path))
		if err != nil {
			t.Fatal(err)
		}
		found := longComments(f, strings.Split(string(text), "\n"))
		if dir := isWordy(f.path); dir != "" {
			left[dir] += len(found)
			continue
		}
		for _, what := range found {
			t.Error(what)
		}
	}
	for _, dir := range wordy {
		t.Logf("%s: %d comments are too long; at 0 remove it from wordy", dir, left[dir])
	}
}

func isWordy(path string) string {
	for _, dir := range wordy {
		if strings.HasPrefix(path, dir+"/") {
			return dir
		}
	}
	return ""
}

// longComments returns a message for each comment of a file that is too long.
func longComments(f sourceFile, text []string) []string {
	var found []string
	last, length := 0, 0 // the last line of the present block, and its lines
	flush := func() {
		isPackage := f.fset.Position(f.ast.Package).Line == last+1
		if length > maxCommentLines && !isPackage {
			found = append(found, fmt.Sprintf("%s:%d: a comment of %d lines; at most %d are allowed", f.path, last-length+1, length, maxCommentLines))
		}
		length = 0
	}
	for _, group := range f.ast.Comments {
		for _, c := range group.List {
			first, end := f.fset.Position(c.Pos()).Line, f.fset.Position(c.End()).Line
			for n := first; n <= end; n++ {
				if columns := len([]rune(strings.ReplaceAll(text[n-1], "\t", "    "))); columns > maxCommentColumns && !isDirective(c) {
					found = append(found, fmt.Sprintf("%s:%d: a comment of %d columns; at most %d are allowed", f.path, n, columns, maxCommentColumns))
				}
			}
			alone := strings.TrimSpace(text[first-1][:f.fset.Position(c.Pos()).Column-1]) == ""
			if !alone || isDirective(c) || first != last+1 {
				flush()
			}
			if alone && !isDirective(c) {
				last, length = end, length+end-first+1
			}
		}
	}
	flush()
	return found
}

func isDirective(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "//go:") }
