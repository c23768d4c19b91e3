package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/testkit"
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
	t.Run("what root in the guest prepared", func(t *testing.T) { hostileTree(t, h) })
	ok(t, h, "rm", "--force", "box")
}

// hostileTree copies a tree that root in the guest made to harm the host's user.
func hostileTree(t *testing.T, h *testkit.Home) {
	ok(t, h, "exec", "box", "--", "sh", "-c", `mkdir -p /tmp/trap/sub && cd /tmp/trap && umask 0 &&
		printf x > tool && chmod 6777 tool && chmod 1777 sub && ln -s /etc/passwd sub/link && mknod disk b 8 0 && mkfifo pipe`)
	here := filepath.Join(h.Dir, "here")
	if err := os.Mkdir(here, 0o755); err != nil {
		t.Fatal(err)
	}
	const list = `cd "$1" && find . ! -type l -printf "%p %m %y\n" -o -printf "%p -> %l\n" | sort`
	want := ". 755 d\n./sub 755 d\n./sub/link -> /etc/passwd\n./tool 755 f\n"

	notes := code(t, h, 0, "vm", "cp", "box:/tmp/trap", here).Stderr
	for _, name := range []string{"trap/disk", "trap/pipe"} {
		if !strings.Contains(notes, "skipped "+name) {
			t.Errorf("the copy does not say that it skipped %s: %q", name, notes)
		}
	}
	equal(t, "the copy in a directory", run(t, h, "sh", "-c", list, "sh", filepath.Join(here, "trap")), want)

	// A program that trusts the archive, as root's tar does, gets the same.
	archive := ok(t, h, "vm", "cp", "box:/tmp/trap", "-")
	file := write(t, h, "trap.tar", archive, 0o600)
	out := filepath.Join(h.Dir, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, h, "tar", "-x", "-p", "-f", file, "-C", out)
	equal(t, "the copy by tar", run(t, h, "sh", "-c", list, "sh", filepath.Join(out, "trap")), want)

	// A file of 2 TiB that takes no room in the guest takes none here.
	ok(t, h, "exec", "box", "--", "truncate", "-s", "2T", "/tmp/trap/large")
	fails(t, h, []string{"vm", "cp", "box:/tmp/trap", here}, "bytes in files")
	fails(t, h, []string{"vm", "cp", "box:/tmp/trap", "-"}, "bytes in files")
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
