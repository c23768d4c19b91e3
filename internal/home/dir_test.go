package home

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/fault"
)

func TestPrivateDir(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(dir string) error
		says    string // "" if no error is expected
	}{
		"not there":          {func(string) error { return nil }, ""},
		"there":              {func(dir string) error { return os.Mkdir(dir, 0o700) }, ""},
		"open to others":     {func(dir string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o750)) }, "open to others"},
		"a file":             {func(dir string) error { return os.WriteFile(dir, nil, 0o600) }, "not a directory"},
		"a link":             {func(dir string) error { return os.Symlink(os.TempDir(), dir) }, "not a directory"},
		"a link to nothing":  {func(dir string) error { return os.Symlink("/nonexistent", dir) }, "not a directory"},
		"below everybody's":  {func(dir string) error { return os.Chmod(filepath.Dir(dir), 0o777) }, "everybody"},
		"below a sticky one": {func(dir string) error { return os.Chmod(filepath.Dir(dir), 0o777|os.ModeSticky) }, ""},
		"somebody else's": {func(dir string) error {
			if os.Geteuid() != 0 {
				return os.Symlink("/", dir) // refused as well
			}
			return errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, 65534, 65534))
		}, "directory"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "run")
			if err := c.prepare(dir); err != nil {
				t.Fatal(err)
			}
			err := PrivateDir(dir)
			if c.says == "" && err != nil || c.says != "" && (fault.KindOf(err) != fault.Denied || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("got %v", err)
			}
		})
	}
}
