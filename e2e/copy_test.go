package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCopy copies both ways and checks modes, times, links and odd names.
func TestCopy(t *testing.T) {
	h := warm(t)
	ok(t, h, "run", "-d", "--name", "box", "--net", "none")
	tree := filepath.Join(h.Dir, "tree")
	write(t, h, "tree/plain", "plain\n", 0o644)
	write(t, h, "tree/sub dir/tool", "#!/bin/sh\necho ran\n", 0o750)
	write(t, h, "tree/sub dir/empty", "", 0o400)
	write(t, h, "tree/"+strings.Repeat("n", 200), "long name", 0o600)
	if err := os.Symlink("sub dir/tool", filepath.Join(tree, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/nowhere", filepath.Join(tree, "dangling")); err != nil {
		t.Fatal(err)
	}
	list := `cd "$1" && find . ! -type l -printf "%p %m %s %y\n" -o -printf "%p -> %l\n" | grep -v "^\. " | sort`

	t.Run("a tree there and back", func(t *testing.T) {
		ok(t, h, "vm", "cp", tree, "box:/tmp")
		there := ok(t, h, "exec", "box", "--", "sh", "-c", list, "sh", "/tmp/tree")
		here := run(t, h, "sh", "-c", list, "sh", tree)
		equal(t, "the tree in the guest", withoutSizes(there), withoutSizes(here))
		equal(t, "a program that came by cp", ok(t, h, "exec", "box", "--", "/tmp/tree/link"), "ran\n")
		back := filepath.Join(h.Dir, "back")
		if err := os.Mkdir(back, 0o755); err != nil {
			t.Fatal(err)
		}
		ok(t, h, "vm", "cp", "box:/tmp/tree", back)
		equal(t, "the tree that came back", withoutSizes(run(t, h, "sh", "-c", list, "sh", filepath.Join(back, "tree"))), withoutSizes(here))
		run(t, h, "diff", "-r", "--no-dereference", tree, filepath.Join(back, "tree"))
	})
	t.Run("one file, another name", func(t *testing.T) {
		ok(t, h, "vm", "cp", filepath.Join(tree, "plain"), "box:/tmp/other")
		equal(t, "content", ok(t, h, "exec", "box", "--", "cat", "/tmp/other"), "plain\n")
		ok(t, h, "vm", "cp", "box:/tmp/other", filepath.Join(h.Dir, "again"))
		data, err := os.ReadFile(filepath.Join(h.Dir, "again"))
		if err != nil || string(data) != "plain\n" {
			t.Errorf("%q, %v", data, err)
		}
	})
	t.Run("what is not there", func(t *testing.T) {
		fails(t, h, []string{"vm", "cp", "box:/no/such/file", h.Dir}, "/no/such/file")
		fails(t, h, []string{"vm", "cp", filepath.Join(h.Dir, "nothing"), "box:/tmp"}, "nothing")
	})
	t.Run("a guest's links do not lead out of the target", func(t *testing.T) {
		ok(t, h, "exec", "box", "--", "sh", "-c", "mkdir /tmp/evil && ln -s "+h.Dir+"/prey /tmp/evil/out && ln -s / /tmp/evil/root")
		prey := write(t, h, "prey", "untouched", 0o644)
		ok(t, h, "vm", "cp", "box:/tmp/evil", h.Dir)
		data, err := os.ReadFile(prey)
		if err != nil || string(data) != "untouched" {
			t.Errorf("%q, %v", data, err)
		}
	})
	ok(t, h, "rm", "--force", "box")
}

// withoutSizes drops the sizes of directories, which depend on the file system.
func withoutSizes(list string) string {
	var kept []string
	for line := range strings.Lines(list) {
		if fields := strings.Fields(line); fields[len(fields)-1] == "d" {
			line = strings.Join(append(fields[:len(fields)-2], "d\n"), " ")
		}
		kept = append(kept, line)
	}
	return strings.Join(kept, "")
}
