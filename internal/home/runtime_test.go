package home

import (
	"os"
	"path/filepath"
	"testing"
)

// TestRuntimeMoves starts a home with another runtime directory than before. As long as the earlier
// one has machines of this home, it stays in use.
func TestRuntimeMoves(t *testing.T) {
	s := newSite(t.TempDir())
	earlier, now := s.Runtime, filepath.Join(t.TempDir(), "banger")
	used := func(when, want string) {
		t.Helper()
		held, err := Acquire(testContext(t), s.Layout)
		if err != nil {
			t.Fatal(err)
		}
		defer held.Release()
		if got := held.Layout().Runtime; got != want {
			t.Errorf("%s, the home uses %s, want %s", when, got, want)
		}
		if err := held.Claim(testContext(t), s.db, testKeys); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	used("at the first start", earlier)
	machine := filepath.Join(earlier, "vms", "0123456789abcdef")
	if err := os.MkdirAll(machine, 0o700); err != nil {
		t.Fatal(err)
	}
	s.Runtime = now
	used("with a machine in the earlier directory", earlier)
	used("at the start after it", earlier)
	if err := os.Remove(machine); err != nil {
		t.Fatal(err)
	}
	used("without machines", now)
	if err := os.MkdirAll(machine, 0o700); err != nil {
		t.Fatal(err)
	}
	used("when the home has moved", now)

	other := newSite(t.TempDir())
	other.Runtime = now
	if err := os.RemoveAll(now); err != nil {
		t.Fatal(err)
	}
	other.mustStart(t)
	if err := os.MkdirAll(filepath.Join(now, "vms", "0123456789abcdef"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.Runtime = earlier
	used("when another home has taken the directory", earlier)
}
