// Package e2e tests the programs as a person uses them: the real CLI, the real daemon, real VMs.
// Each test has a BANGER_HOME of its own, and checks at its end that nothing is left on the host.
// Each thing that banger promises has one file with a test or a few.
package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"banger/internal/testkit"
)

// bin is the directory of the programs under test.
var bin = os.Getenv("BANGER_BIN")

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

// testMain builds the programs unless BANGER_BIN is set.
func testMain(m *testing.M) int {
	if bin == "" {
		dir, err := os.MkdirTemp("", "banger-e2e")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		bin = dir
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", bin+"/", "./cmd/...")
		cmd.Dir, cmd.Env = testkit.SourceRoot(), append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building the programs: %v\n%s", err, out)
			return 1
		}
	}
	return m.Run()
}

// warm returns a home with an image and a kernel. The test fails if more than the home's own files
// is left at its end.
func warm(t *testing.T) *testkit.Home {
	t.Helper()
	testkit.RequireTool(t, "qemu-system-x86_64")
	testkit.RequireTool(t, "mmdebstrap")
	t.Parallel()
	return testkit.NewWarmHome(t, bin)
}

// TestCache makes the image and the kernel that all tests share. script/test runs it first, because
// tests of other packages need them too.
func TestCache(t *testing.T) {
	h := warm(t)
	has(t, ok(t, h, "image", "list"), testkit.Image)
	has(t, ok(t, h, "kernel", "list"), testkit.Kernel)
}

// ok runs `banger args...`, which must succeed, and returns its standard output.
func ok(t *testing.T, h *testkit.Home, args ...string) string {
	t.Helper()
	return code(t, h, 0, args...).Stdout
}

// code runs `banger args...`, which must exit with want.
func code(t *testing.T, h *testkit.Home, want int, args ...string) testkit.Result {
	t.Helper()
	r := h.Banger(t, args...)
	if r.Code != want {
		t.Fatalf("%s: exit %d, not %d\nstdout: %s\nstderr: %s", strings.Join(r.Args, " "), r.Code, want, r.Stdout, r.Stderr)
	}
	return r
}

// fails runs `banger args...`, which must fail and print all words to standard error.
func fails(t *testing.T, h *testkit.Home, args []string, words ...string) testkit.Result {
	t.Helper()
	r := h.Banger(t, args...)
	if r.Code == 0 {
		t.Fatalf("%s: succeeded\nstdout: %s", strings.Join(r.Args, " "), r.Stdout)
	}
	if strings.Contains(r.Stderr, "goroutine ") {
		t.Errorf("%s: panicked\n%s", strings.Join(r.Args, " "), r.Stderr)
	}
	has(t, r.Stderr, words...)
	return r
}

// has checks that text contains all words.
func has(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%q is not in:\n%s", word, text)
		}
	}
}

// equal compares two values.
func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// matches checks text against a regular expression.
func matches(t *testing.T, text, pattern string) {
	t.Helper()
	if !regexp.MustCompile(pattern).MatchString(text) {
		t.Errorf("%q does not match\n%s", pattern, text)
	}
}

// decode runs `banger args... --json` and decodes its output.
func decode[T any](t *testing.T, h *testkit.Home, args ...string) T {
	t.Helper()
	out := ok(t, h, append(args, "--json")...)
	var v T
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("banger %s --json: %v\n%s", strings.Join(args, " "), err, out)
	}
	return v
}

// write makes a file below the home, with its directories, and returns its path.
func write(t *testing.T, h *testkit.Home, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(h.Dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // independent of the umask
		t.Fatal(err)
	}
	return path
}

// run runs a program of the host, which must succeed, and returns its output.
func run(t *testing.T, h *testkit.Home, program string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatal(err)
	}
	r := h.RunCmd(t, "", path, args...)
	if r.Code != 0 {
		t.Fatalf("%s: exit %d\nstdout: %s\nstderr: %s", strings.Join(r.Args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// signal sends a signal to a running command.
func signal(t *testing.T, cmd *exec.Cmd, sig os.Signal) {
	t.Helper()
	if err := cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}
