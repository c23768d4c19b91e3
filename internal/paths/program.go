package paths

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Program returns the path of one of banger's programs ("banger", "bangerd", "banger-agent"). It
// looks beside the running one, then in libexec of the same prefix, then in PATH.
func Program(name string) (string, error) {
	if self, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(self); err == nil {
			self = real
		}
		dir := filepath.Dir(self)
		for _, candidate := range []string{filepath.Join(dir, name), filepath.Join(dir, "..", "libexec", "banger", name)} {
			if info, err := os.Stat(candidate); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
				return filepath.Clean(candidate), nil
			}
		}
	}
	found, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("looking for %s: it is neither beside this program nor in PATH", name)
	}
	return filepath.Abs(found)
}
