package initramfs

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/internal/testkit"
)

func write(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestAgent(t *testing.T) {
	dir := t.TempDir()
	cache := filepath.Join(dir, "cache")
	agent := write(t, filepath.Join(dir, "agent"), "the agent")
	c := New(cache)
	path, err := c.Agent(agent)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	members, err := readArchives(data)
	var names []string
	for _, m := range members {
		names = append(names, m.Name)
	}
	if want := strings.Fields("dev proc sys newroot dev/console init"); err != nil || !slices.Equal(names, want) {
		t.Errorf("holds %v, want %v (%v)", names, want, err)
	}
	if last := members[len(members)-1]; last.Data != "the agent" || last.Mode != 0o100755 {
		t.Errorf("/init is %+v", last)
	}
	if again, err := New(cache).Agent(agent); err != nil || again != path {
		t.Errorf("another process: %v, %v", again, err)
	}
	write(t, agent, "a new build")
	newer, err := c.Agent(agent)
	if err != nil || newer == path {
		t.Errorf("a new build: %v, %v", newer, err)
	}
	if got := list(t, cache); len(got) != 2 {
		t.Errorf("the cache holds %v", got)
	}
	if _, err := c.Agent(filepath.Join(dir, "none")); err == nil {
		t.Error("no agent: no error")
	}
	if _, err := c.Agent(dir); err == nil {
		t.Error("a directory: no error")
	}
}

func TestCpioReadsIt(t *testing.T) {
	testkit.RequireTool(t, "cpio")
	dir := t.TempDir()
	path, err := New(dir).Agent(write(t, filepath.Join(dir, "agent"), "the agent"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command("cpio", "--list", "--quiet")
	cmd.Stdin = f
	out, err := cmd.CombinedOutput()
	if want := "dev\nproc\nsys\nnewroot\ndev/console\ninit\n"; err != nil || string(out) != want {
		t.Errorf("cpio says %q, %v", out, err)
	}
}

func TestCombined(t *testing.T) {
	dir := t.TempDir()
	c := New(filepath.Join(dir, "cache"))
	a, b := write(t, filepath.Join(dir, "a"), "aaaa"), write(t, filepath.Join(dir, "b"), "bbbbbbbb")
	path, err := c.Combined(a, "", b)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "aaaabbbbbbbb" {
		t.Errorf("holds %q, %v", data, err)
	}
	if swapped, err := c.Combined(b, a); err != nil || swapped == path {
		t.Errorf("the other order: %v, %v", swapped, err)
	}
	if one, err := c.Combined("", b); err != nil || one != b {
		t.Errorf("one archive: %v, %v", one, err)
	}
	if _, err := c.Combined(""); err == nil {
		t.Error("no archive: no error")
	}
	if _, err := c.Combined(a, write(t, filepath.Join(dir, "odd"), "12345")); err == nil {
		t.Error("an archive of 5 bytes: no error")
	}
}

// TestShared: many callers get one complete file, also if two processes make it.
func TestShared(t *testing.T) {
	dir := t.TempDir()
	content := strings.Repeat("agent", 100_000)
	agent := write(t, filepath.Join(dir, "agent"), content)
	caches := []*Cache{New(filepath.Join(dir, "cache")), New(filepath.Join(dir, "cache"))}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			path, err := caches[i%2].Agent(agent)
			if err != nil {
				t.Error(err)
				return
			}
			if data, err := os.ReadFile(path); err != nil || !bytes.Contains(data, []byte(content)) {
				t.Errorf("an incomplete file of %d bytes, %v", len(data), err)
			}
		})
	}
	wg.Wait()
	if got := list(t, filepath.Join(dir, "cache")); len(got) != 1 {
		t.Errorf("the cache holds %v", got)
	}
}

func TestFileChangesWhileRead(t *testing.T) {
	dir := t.TempDir()
	c := New(filepath.Join(dir, "cache"))
	agent := write(t, filepath.Join(dir, "agent"), "one")
	info, err := os.Stat(agent)
	if err != nil {
		t.Fatal(err)
	}
	c.sums[stampOf(agent, info)] = strings.Repeat("0", 64) // as if it were another file
	if _, err := c.Agent(agent); err == nil || !strings.Contains(err.Error(), "changed while it was read") {
		t.Errorf("error %v", err)
	}
	if got := list(t, filepath.Join(dir, "cache")); len(got) != 0 {
		t.Errorf("the cache holds %v", got)
	}
}

func TestPrune(t *testing.T) {
	dir := t.TempDir()
	c := New(filepath.Join(dir, "cache"))
	if freed, err := c.Prune(0); freed != 0 || err != nil {
		t.Errorf("no cache yet: %v, %v", freed, err)
	}
	agent := write(t, filepath.Join(dir, "agent"), "one")
	old, err := c.Agent(agent)
	if err != nil {
		t.Fatal(err)
	}
	longAgo := time.Now().Add(-48 * time.Hour)
	backdate := func(path string) {
		if err := os.Chtimes(path, longAgo, longAgo); err != nil {
			t.Fatal(err)
		}
	}
	backdate(old)
	if again, err := c.Agent(agent); err != nil || again != old { // is marked as used
		t.Fatal(again, err)
	}
	leftover := write(t, filepath.Join(dir, "cache", ".tmp-123"), "half")
	backdate(leftover)
	if freed, err := c.Prune(24 * time.Hour); err != nil || freed != 4 {
		t.Errorf("freed %d, %v", freed, err)
	}
	if got := list(t, filepath.Join(dir, "cache")); !slices.Equal(got, []string{filepath.Base(old)}) {
		t.Errorf("the cache holds %v", got)
	}
	backdate(old)
	if freed, err := c.Prune(24 * time.Hour); err != nil || freed == 0 {
		t.Errorf("freed %d, %v", freed, err)
	}
}

// BenchmarkCombined compares a start's cost with a full cache to the copying that it saves.
func BenchmarkCombined(b *testing.B) {
	dir := b.TempDir()
	agent := filepath.Join(dir, "agent")
	modules := filepath.Join(dir, "modules.cpio")
	for path, size := range map[string]int{agent: 8 << 20, modules: 1 << 20} {
		if err := os.WriteFile(path, make([]byte, size), 0o755); err != nil {
			b.Fatal(err)
		}
	}
	both := func(c *Cache) {
		a, err := c.Agent(agent)
		if err == nil {
			_, err = c.Combined(modules, a)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	b.Run("cached", func(b *testing.B) {
		c := New(filepath.Join(dir, "cache"))
		for b.Loop() {
			both(c)
		}
	})
	b.Run("made", func(b *testing.B) {
		for b.Loop() {
			fresh := filepath.Join(dir, "fresh")
			both(New(fresh))
			os.RemoveAll(fresh)
		}
	})
}
