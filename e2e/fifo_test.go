package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"banger/internal/testkit"
)

// TestFIFOs puts a FIFO in the place of each file of a home in turn. No command and no daemon waits
// for its other end, and each works again when the file is back.
func TestFIFOs(t *testing.T) {
	h := warm(t)
	ok(t, h, "vm", "create", "--name", "box", "--memory", "256M")
	ok(t, h, "vm", "start", "box")
	ok(t, h, "snapshot", "create", "--name", "snap", "box")
	ok(t, h, "vm", "stop", "box")
	ok(t, h, "daemon", "stop")
	ends := func(what string, args ...string) testkit.Result {
		t.Helper()
		r := h.RunCmd(t, "", "timeout", append([]string{"-k", "5", "60", filepath.Join(h.Bin, "banger")}, args...)...)
		if r.Code == 124 || r.Code == 137 {
			t.Errorf("with a FIFO at %s, banger %s waits for ever", what, strings.Join(args, " "))
		}
		return r
	}
	for _, path := range files(t, h) {
		name, _ := filepath.Rel(h.Dir, path)
		t.Run(strings.ReplaceAll(name, "/", ":"), func(t *testing.T) {
			aside := filepath.Join(h.Dir, "tmp", "aside")
			must(t, os.Rename(path, aside))
			must(t, syscall.Mkfifo(path, 0o600))
			use := []string{"vm", "start", "box"}
			if strings.Contains(name, "snapshots") {
				use = []string{"snapshot", "export", "--output", filepath.Join(h.Dir, "tmp", "exported"), "snap"}
			}
			for _, args := range [][]string{
				{"vm", "list"}, {"doctor"}, {"df"}, {"image", "list"}, {"kernel", "list"}, {"snapshot", "list"}, {"template", "list"},
				use, {"vm", "stop", "box"}, {"daemon", "logs"}, {"daemon", "stop"},
			} {
				if r := ends(name, args...); r.Code != 0 {
					t.Logf("%s: %s", strings.Join(args, " "), strings.TrimSpace(r.Stderr))
				}
			}
			must(t, os.RemoveAll(path))
			must(t, os.Rename(aside, path))
		})
	}
	ok(t, h, "vm", "start", "box")
	ok(t, h, "vm", "delete", "--force", "box")
}

// files returns the regular files of a home, without the layers of images.
func files(t *testing.T, h *testkit.Home) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(h.Dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || strings.HasPrefix(path, filepath.Join(h.Dir, "tmp")) || strings.Contains(path, "/blobs/") {
			return err
		}
		found = append(found, path)
		return nil
	})
	must(t, err)
	return found
}
