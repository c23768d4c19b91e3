package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

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

// TestCopyTargets copies both ways to what is no plain file, and to a disk that gets full. The
// devices have the numbers of /dev/null and /dev/full.
func TestCopyTargets(t *testing.T) {
	testkit.Require(t, "root", os.Geteuid() == 0, "only root can make devices and mount a tmpfs")
	h := warm(t)
	ok(t, h, "run", "-d", "--name", "box", "--net", "none")
	const prepare = `cd "$1" && mknod null c 1 3 && mknod full c 1 7 && mkfifo fifo && printf old >file && chmod 604 file && ln -s file link &&
		ln -s nothing dangling && mkdir -p tree/sub && mkfifo tree/sub/fifo && printf old >outside && ln -s ../../outside tree/sub/link`
	const list = `cd "$1" && find . -type f -printf "%p %m %s\n" -o -printf "%p %y %l\n" | sort`
	sides := []struct {
		name, dir string
		sh        func(script string) string
		in, from  func(name string) string // the destination, and a source on the other side
	}{
		{"out of a VM", h.Dir + "/out", func(script string) string { return run(t, h, "sh", "-c", script, "sh", h.Dir+"/out") },
			func(name string) string { return h.Dir + "/out/" + name }, func(name string) string { return "box:/root/from/" + name }},
		{"into a VM", "/root/in", func(script string) string { return ok(t, h, "exec", "box", "--", "sh", "-c", script, "sh", "/root/in") },
			func(name string) string { return "box:/root/in/" + name }, func(name string) string { return h.Dir + "/from/" + name }},
	}
	const source = `mkdir -p "$1/tree/sub" && cd "$1" && printf new >file && printf x >tree/sub/fifo && mkdir links && printf evil >links/link && truncate -s 40M big && truncate -s 20G huge`
	run(t, h, "sh", "-c", source, "sh", h.Dir+"/from")
	ok(t, h, "exec", "box", "--", "sh", "-c", source, "sh", "/root/from")
	for _, s := range sides {
		t.Run(s.name, func(t *testing.T) {
			if s.dir == h.Dir+"/out" {
				if err := errors.Join(os.Mkdir(s.dir, 0o700), unix.Mount("small", s.dir, "tmpfs", 0, "mode=0700,size=20m")); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = unix.Unmount(s.dir, unix.MNT_DETACH) })
			} else {
				ok(t, h, "exec", "box", "--", "sh", "-c", "mkdir /root/in && mount -t tmpfs -o size=20m small /root/in")
			}
			s.sh(prepare)
			before := s.sh(list)

			ok(t, h, "cp", s.from("file"), s.in("null"))
			fails(t, h, []string{"cp", s.from("file"), s.in("full")}, "no space left on device")
			code(t, h, 68, "cp", s.from("file"), s.in("dangling"))
			code(t, h, 68, "cp", s.from("tree"), s.in("")) // over a pipe
			equal(t, "the destination after copies to devices", s.sh(list), before)

			s.sh(`cat "$1/fifo" >"$1/got" 2>&1 </dev/null &`)
			ok(t, h, "cp", s.from("file"), s.in("fifo"))
			equal(t, "what the pipe's reader got", s.sh(`for i in 1 2 3 4 5 6 7 8 9; do [ -s "$1/got" ] && break; sleep 0.2; done; cat "$1/got"; rm "$1/got"`), "new")

			// The disk gets full.
			fails(t, h, []string{"cp", s.from("big"), s.in("link")}, `making "big": no space left on device`)
			equal(t, "the destination after a copy that failed", s.sh(list), before)

			// A name within a copied tree is not followed.
			ok(t, h, "cp", s.from("links/."), s.in("tree/sub"))
			equal(t, "a link's target outside of the tree", s.sh(`cat "$1/outside"`), "old")

			ok(t, h, "cp", s.from("file"), s.in("link"))
			equal(t, "the link and its target", s.sh(`cd "$1" && readlink link && cat file`), "file\nnew")
			equal(t, "what is half-made", s.sh(`find "$1" -name ".banger*"`), "")
		})
	}
	t.Run("interrupted", func(t *testing.T) {
		// The copy is under way when its part is there.
		target := write(t, h, "target/file", "old", 0o604)
		out := run(t, h, "sh", "-c", `banger cp box:/root/from/huge "$1/file" & pid=$!
			for i in $(seq 400); do ls "$1"/.banger* >/dev/null 2>&1 && break; sleep 0.05; done
			kill -TERM $pid; wait $pid; echo "exit $?"; ls -A "$1"; cat "$1/file"`, "sh", filepath.Dir(target))
		equal(t, "an interrupted copy", out, "exit 130\nfile\nold")
		mode := run(t, h, "stat", "-c", "%a", target)
		equal(t, "the old file's mode", mode, "604\n")

		if err := unix.Mkfifo(filepath.Join(h.Dir, "silent"), 0o600); err != nil {
			t.Fatal(err)
		}
		out = run(t, h, "sh", "-c", `timeout -s INT --preserve-status 2 banger cp box:/root/from/file "$1/silent"; echo "exit $?"`, "sh", h.Dir)
		equal(t, "a copy to a pipe that nobody reads", out, "exit 130\n")
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
