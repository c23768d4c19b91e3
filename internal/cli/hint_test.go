package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"banger/internal/fault"
)

var quotedCommand = regexp.MustCompile("`banger(?: help)?((?: [a-z][a-z-]*)+)(?:`| [A-Z%-])")

// TestHintsNameCommands claims that hints and documents name commands that exist.
func TestHintsNameCommands(t *testing.T) {
	root := NewCommands()
	seen := 0
	check := func(path string) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range quotedCommand.FindAllStringSubmatch(string(text), -1) {
			seen++
			words := strings.Fields(m[1])
			cmd, rest, err := root.Find(words)
			if err != nil || cmd == root || cmd.HasSubCommands() && len(rest) > 0 {
				t.Errorf("%s names %q, which is no command", path, "banger"+m[1])
			}
		}
	}
	for _, pattern := range []string{"../*/*.go", "../*/*/*.go", "../../docs/*.md", "../../README.md"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if !strings.HasSuffix(f, "_test.go") {
				check(f)
			}
		}
	}
	if seen < 100 {
		t.Errorf("only %d commands were found in hints and documents", seen)
	}
}

// TestReliefSparesVMs claims that no command in the hint for a full host deletes a VM.
func TestReliefSparesVMs(t *testing.T) {
	root := NewCommands()
	for _, m := range quotedCommand.FindAllStringSubmatch(fault.Relief, -1) {
		cmd, _, err := root.Find(strings.Fields(m[1]))
		if err != nil {
			t.Fatal(err)
		}
		if path := cmd.CommandPath(); strings.HasPrefix(path, "banger vm ") && path != "banger vm list" || cmd.Name() == "rm" {
			t.Errorf("the hint names %s", path)
		}
	}
}
