package tree

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestCopy(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	at := func(name string) string { return filepath.Join(src, name) }
	os.MkdirAll(at("dir/sub"), 0o750)
	os.WriteFile(at("dir/file"), []byte("text"), 0o640)
	os.WriteFile(at("suid"), []byte("x"), 0o755)
	os.Chmod(at("suid"), 0o755|os.ModeSetuid)
	os.Symlink("../nowhere", at("dir/link"))
	os.Link(at("dir/file"), at("hard"))
	unix.Mkfifo(at("pipe"), 0o600)
	os.WriteFile(at("lost+found"), nil, 0o600)
	os.Chmod(at("dir/sub"), os.ModeSticky|0o777)
	past := time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC)
	os.Chtimes(at("dir/file"), past, past)
	os.Chtimes(at("dir"), past, past)
	os.Chmod(src, 0o711)
	if os.Getuid() == 0 {
		os.Lchown(at("dir/link"), 12, 34)
		os.Chown(at("suid"), 12, 34)
		os.Chmod(at("suid"), 0o755|os.ModeSetuid)
		unix.Setxattr(at("dir/file"), "trusted.test", []byte("value"), 0)
	}
	os.WriteFile(filepath.Join(dst, "suid"), []byte("old and longer"), 0o600)
	os.Symlink("/etc/passwd", filepath.Join(dst, "hard"))
	if err := Copy(src, dst, "lost+found"); err != nil {
		t.Fatal(err)
	}
	list := func(dir string) string {
		out, err := exec.Command("sh", "-c", "cd "+dir+" && find . -path ./lost+found -prune -o -printf '%p %y %m %U:%G %l %s %n ' -newermt 2002-01-01 -printf 'new\n' -o -printf '%T@\n' | sed 's/ d \\([0-9]*\\) \\([0-9:]*\\)  [0-9]*/ d \\1 \\2/' | sort").CombinedOutput()
		if err != nil {
			t.Fatalf("listing %s: %v: %s", dir, err, out)
		}
		return string(out)
	}
	if want, got := list(src), list(dst); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got, _ := os.ReadFile(filepath.Join(dst, "dir/file")); string(got) != "text" {
		t.Errorf("the copied file holds %q, want %q", got, "text")
	}
	if os.Getuid() == 0 {
		value := make([]byte, 10)
		if n, err := unix.Getxattr(filepath.Join(dst, "dir/file"), "trusted.test", value); string(value[:max(n, 0)]) != "value" {
			t.Errorf("attribute %q, %v", value[:max(n, 0)], err)
		}
	}
}

func TestCopyRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	os.WriteFile(file, nil, 0o644)
	for _, from := range []string{file, filepath.Join(file, "x"), "/no/such"} {
		if err := Copy(from, t.TempDir()); err == nil {
			t.Errorf("%s was copied", from)
		}
	}
}
