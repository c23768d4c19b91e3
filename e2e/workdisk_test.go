package e2e

import (
	"os"
	"path/filepath"
	"testing"
)

// TestWorkDisk checks that /root is filled once and then belongs to the user.
func TestWorkDisk(t *testing.T) {
	h := warm(t)
	h.Setenv("HOME", filepath.Join(h.Dir, "person"))
	write(t, h, "person/.gitconfig", "[user]\n\tname = Ada Lovelace\n\temail = ada@example.org\n", 0o644)
	write(t, h, "person/.vimrc", "set nocompatible\n", 0o600)
	write(t, h, "person/notes/todo", "more\n", 0o644)
	h.WriteConfig(t, `
[[file_sync]]
host = "~/.vimrc"
guest = "/root/.vimrc"

[[file_sync]]
host = "`+h.Dir+`/person/notes"
guest = "/root/notes"

[[file_sync]]
host = "/no/such/file"
guest = "/root/none"
optional = true
`)
	ok(t, h, "run", "-d", "--name", "work")
	sh := func(line string) string { return ok(t, h, "exec", "work", "--", "sh", "-c", line) }

	equal(t, "what is on /root", sh("grep ' /root ' /proc/mounts | cut -d' ' -f3"), "ext4\n")
	equal(t, "seed", sh("test -s /root/.bashrc && echo seeded"), "seeded\n")
	equal(t, "git identity", sh("git config user.name; git config user.email"), "Ada Lovelace\nada@example.org\n")
	equal(t, "file_sync", sh("cat /root/.vimrc /root/notes/todo; stat -c %a /root/.vimrc; ls /root/none 2>/dev/null || echo none"), "set nocompatible\nmore\n600\nnone\n")
	equal(t, "owner", sh("stat -c %u:%g /root /root/.vimrc /root/notes"), "0:0\n0:0\n0:0\n")

	sh("rm /root/.bashrc; echo mine >/root/mine")
	if err := os.WriteFile(filepath.Join(h.Dir, "person", ".vimrc"), []byte("set number\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ok(t, h, "vm", "restart", "work")
	equal(t, "after a restart", sh("cat /root/mine /root/.vimrc; ls /root/.bashrc 2>/dev/null || echo not seeded again"), "mine\nset number\nnot seeded again\n")
	ok(t, h, "rm", "--force", "work")

	t.Run("none", func(t *testing.T) {
		equal(t, "mounts at /root", ok(t, h, "run", "--rm", "--work-disk-size", "0", "--", "sh", "-c", "grep -c ' /root ' /proc/mounts; ls /root/.bashrc"), "0\n/root/.bashrc\n")
	})
}
