package hook

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestExecutables(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"b": 0o755, "a-2": 0o700, "a-10": 0o755, "data": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	os.Mkdir(filepath.Join(dir, "directory"), 0o755)
	os.Symlink("b", filepath.Join(dir, "link"))
	os.Symlink("nowhere", filepath.Join(dir, "broken"))
	if got := executables(dir); !slices.Equal(got, []string{"a-10", "a-2", "b", "link"}) {
		t.Errorf("the hooks are %q, want the executable files in lexical order", got)
	}
	if got := executables(filepath.Join(dir, "missing")); len(got) > 0 {
		t.Errorf("a missing directory has the hooks %q", got)
	}
}

// TestRenewed checks what fork hooks say of themselves.
func TestRenewed(t *testing.T) {
	dir := t.TempDir()
	for name, hook := range map[string]struct {
		text string
		mode os.FileMode
	}{
		"a":          {"#!/bin/sh\n# regenerates /etc/app/key\n  # regenerates /var/lib/app/\n# regenerates etc/relative\nmake-key\n", 0o755},
		"b":          {"echo '# regenerates /etc/b'\n#regenerates /etc/c\n", 0o755},
		"not-a-hook": {"# regenerates /etc/d\n", 0o644},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(hook.text), hook.mode); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := Renewed(dir), []string{"/etc/app/key", "/var/lib/app/"}; !slices.Equal(got, want) {
		t.Errorf("renewed are %q, want %q", got, want)
	}
	if got := Renewed(filepath.Join(dir, "missing")); got != nil {
		t.Errorf("without hooks, renewed are %q", got)
	}
}
