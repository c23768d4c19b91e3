package template

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"banger/internal/machine"
	"banger/internal/paths"
)

// TestCopiedUses counts uses of a template whose cache was copied with hard links. The other home's
// count stays.
func TestCopiedUses(t *testing.T) {
	const key = "u0123456789abcdef01234567"
	s := &shelf{host: &machine.Host{Layout: paths.At(t.TempDir())}}
	if err := s.countUse(key); !errors.Is(err, errGone) {
		t.Errorf("a use of a template that is gone: %v", err)
	}
	if err := os.MkdirAll(s.dir(key), 0o700); err != nil {
		t.Fatal(err)
	}
	count := func(n int) {
		t.Helper()
		var all sync.WaitGroup
		for range n {
			all.Go(func() {
				if err := s.countUse(key); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	want := func(what, file string, n int64) {
		t.Helper()
		if info, err := os.Stat(file); err != nil || info.Size() != n {
			t.Errorf("%s: %v, %v; want %d uses", what, info, err, n)
		}
	}
	count(3)
	copied := filepath.Join(t.TempDir(), "uses")
	if err := os.Link(s.uses(key), copied); err != nil {
		t.Fatal(err)
	}
	count(20)
	want("this home", s.uses(key), 23)
	want("the copy", copied, 3)
	if left, err := os.ReadDir(s.dir(key)); err != nil || len(left) != 1 {
		t.Errorf("left over: %v, %v", left, err)
	}
}
