package mount

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOnlyDirectories(t *testing.T) {
	root := t.TempDir()
	os.MkdirAll(filepath.Join(root, "var/lib"), 0o755)
	os.Symlink("/etc", filepath.Join(root, "var/link"))
	os.WriteFile(filepath.Join(root, "var/file"), nil, 0o644)
	for path, want := range map[string]bool{"/var/lib/docker": true, "/new/a": true, "/var/lib": true, "/var/link/docker": false, "/var/link": false, "/var/file": false} {
		if got := onlyDirectories(root, path); got != want {
			t.Errorf("%s has only directories: %v, want %v", path, got, want)
		}
	}
}
