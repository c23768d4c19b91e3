// Package testkit has what banger's tests share: homes with a daemon, checks for leaks, and the
// tests of the source itself (imports, sizes, comments).
package testkit

import (
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Require skips the test with a reason if ok is false. If BANGER_TEST_REQUIRE, a comma-separated
// list, contains what, it fails the test instead.
func Require(t testing.TB, what string, ok bool, why string) {
	t.Helper()
	switch {
	case ok:
	case slices.Contains(strings.Split(os.Getenv("BANGER_TEST_REQUIRE"), ","), what):
		t.Fatalf("%s is required here: %s", what, why)
	default:
		t.Skipf("needs %s: %s", what, why)
	}
}

// RequireTool is Require for a program in PATH.
func RequireTool(t testing.TB, name string) {
	t.Helper()
	_, err := exec.LookPath(name)
	Require(t, name, err == nil, "no program of that name in PATH")
}

// Number returns the positive number in an environment variable that makes a test larger, or usual
// if the variable is unset.
func Number(t testing.TB, variable string, usual int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s is %q, not a positive number", variable, text)
	}
	return n
}
