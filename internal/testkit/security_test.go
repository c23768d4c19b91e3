package testkit

import (
	"go/ast"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// claimedTest is a test in docs/security.md: a package and a function, such as `vm.TestFork`.
var claimedTest = regexp.MustCompile("^`([a-z0-9/]+)\\.((?:Test|Fuzz)[A-Za-z0-9_]*)`$")

// TestSecurityClaims checks that each claim in docs/security.md names a test that exists, or says
// that it has none.
func TestSecurityClaims(t *testing.T) {
	known := map[string]bool{}
	for _, f := range readSource(t, 0, "cmd", "internal", "e2e") {
		if !f.isTest() {
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
				known[strings.TrimPrefix(f.dir, "internal/")+"."+fn.Name.Name] = true
			}
		}
	}
	claims := securityClaims(readDocument(t, "docs/security.md"))
	if len(claims) < 20 {
		t.Fatalf("the search finds only these claims: %q", slices.Sorted(maps.Keys(claims)))
	}
	for _, claim := range slices.Sorted(maps.Keys(claims)) {
		if claims[claim] == "no test" {
			continue
		}
		for test := range strings.SplitSeq(claims[claim], ", ") {
			m := claimedTest.FindStringSubmatch(test)
			if m == nil {
				t.Errorf("the claim %q has %q in its last column; want `package.TestName` or: no test", claim, test)
			} else if !known[m[1]+"."+m[2]] {
				t.Errorf("the claim %q names the test %s, which does not exist", claim, test)
			}
		}
	}
}

// securityClaims returns the rows of all tables whose last column is Test: the first cells, and the
// last cell.
func securityClaims(text string) map[string]string {
	claims, within := map[string]string{}, false
	for line := range strings.Lines(text) {
		row, ok := strings.CutPrefix(strings.TrimSpace(line), "|")
		if !ok {
			within = false
			continue
		}
		cells := strings.Split(strings.TrimSuffix(row, "|"), "|")
		last := strings.TrimSpace(cells[len(cells)-1])
		switch {
		case last == "Test":
			within = true
		case within && strings.Trim(last, "- ") != "":
			claims[strings.TrimSpace(strings.Join(cells[:len(cells)-1], "|"))] = last
		}
	}
	return claims
}
