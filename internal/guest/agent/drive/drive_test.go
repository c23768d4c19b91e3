package drive

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"banger/internal/testkit"
)

func TestReadSuper(t *testing.T) {
	testkit.RequireTool(t, "mke2fs")
	for _, tt := range []struct {
		size  int64
		block string
	}{{8 << 20, "1024"}, {64 << 20, "4096"}} {
		path := filepath.Join(t.TempDir(), "disk")
		os.WriteFile(path, nil, 0o600)
		os.Truncate(path, tt.size)
		args := []string{"-q", "-t", "ext4", "-b", tt.block, "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"}
		if out, err := exec.Command("mke2fs", append(args, path)...).CombinedOutput(); err != nil {
			t.Fatalf("making a file system: %v: %s", err, out)
		}
		s, err := ReadSuper(path)
		if err != nil || s.Blocks*s.BlockSize != tt.size {
			t.Errorf("the superblock of %d bytes says %+v, %v", tt.size, s, err)
		}
	}
	if _, err := ReadSuper(os.DevNull); err == nil {
		t.Error("/dev/null has a superblock")
	}
}

func FuzzParseSuper(f *testing.F) {
	good := make([]byte, superSize)
	good[offMagic], good[offMagic+1] = 0x53, 0xef
	f.Add(good)
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSuper(b)
		if err == nil && (s.BlockSize < 1024 || s.BlockSize > 64<<10 || s.Blocks < 0) {
			t.Errorf("impossible superblock accepted: %+v", s)
		}
	})
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	for name, id := range map[string]string{
		"vda": "image", "vdb": "system\n", "loop0": "", "vdc": "66305000012345678901", // cut
		"vdd": "twice", "vde": "twice",
	} {
		os.Mkdir(filepath.Join(dir, name), 0o755)
		os.WriteFile(filepath.Join(dir, name, "serial"), []byte(id), 0o644)
	}
	os.Mkdir(filepath.Join(dir, "sr0"), 0o755)
	for id, want := range map[string]string{"system": "vdb", "image": "vda", "66305000012345678901": "vdc", "6630500001234567890123456": "vdc"} {
		if got, err := find(dir, id); got != want || err != nil {
			t.Errorf("the drive %q is %q, %v; want %s", id, got, err, want)
		}
	}
	for _, id := range []string{"work", "", "6630500001234567890", "sys"} {
		if got, err := find(dir, id); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the drive %q is %q, %v; want fs.ErrNotExist", id, got, err)
		}
	}
	if got, err := find(dir, "twice"); err == nil {
		t.Errorf("an id of two drives means %s, want an error", got)
	}
}
