package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/internal/model"
	"banger/internal/testkit"
)

// jumpingNow replaces the first line of time.Now. The wall clock jumps every two seconds: an hour
// ahead, back, an hour behind, back. The monotonic clock does not, as on a host whose clock is set.
const (
	firstOfNow = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	jumpingNow = firstOfNow + "\tsec += [...]int64{0, 3600, 0, -3600}[uint64(mono)/2e9%4]\n"
)

// jumping gives a home its own banger and bangerd, with a wall clock that jumps. A process cannot
// have a wall clock of its own, so their copy of Go's library is changed.
func jumping(t *testing.T, h *testkit.Home) {
	t.Helper()
	testkit.RequireTool(t, "go")
	dir := filepath.Join(h.Dir, "bin")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(strings.TrimSpace(string(root)), "src/time/time.go")
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(source), firstOfNow) != 1 {
		t.Fatalf("time.Now in %s does not begin with %q any more", path, firstOfNow)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{path: dir + "/time.go"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"time.go": strings.Replace(string(source), firstOfNow, jumpingNow, 1), "overlay.json": string(overlay),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-overlay", dir+"/overlay.json", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w",
		"-o", dir+"/", "./cmd/banger", "./cmd/bangerd")
	build.Dir, build.Env = testkit.SourceRoot(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the programs: %v\n%s", err, out)
	}
	if out, err := exec.Command("cp", bin+"/banger-agent", dir+"/").CombinedOutput(); err != nil {
		t.Fatalf("copying the agent: %v: %s", err, out)
	}
	h.Bin = dir
	h.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// TestClock: the host's clock jumps by an hour in both directions during each operation. No
// operation fails or waits for it, no template is thrown away, and no VM is suspended too early. It
// runs as a part of make stress, because building the programs takes minutes.
func TestClock(t *testing.T) {
	if testkit.Number(t, "BANGER_STRESS_CLOCK", 0) == 0 {
		t.Skip("BANGER_STRESS_CLOCK is unset: it takes minutes")
	}
	h := forking(t, "0")
	jumping(t, h)
	ok(t, h, "run", "--rm", "--memory", "128M", "--", "true")
	testkit.WaitFor(t, 5*time.Minute, "the templates are there", func() bool { return len(made(t, h)) == 2 })
	before := h.Snapshot(t)
	var times []time.Time
	for range 8 {
		times = append(times, clockOf(t, h))
		time.Sleep(time.Second)
	}
	if span := spread(times); span < 90*time.Minute {
		t.Fatalf("the daemon's clock does not jump: %v", times)
	}
	ok(t, h, "run", "-d", "--name", "idle", "--idle-suspend", "10m", "--memory", "128M")
	lives(t, h)
	for range 4 { // each time at another hour
		killDaemon(t, h)
		ok(t, h, "exec", "--timeout", "20s", "idle", "--", "sleep", "2.5")
		ok(t, h, "run", "--rm", "--timeline", "--memory", "128M", "--", "sleep", "1.5")
	}
	lives(t, h)
	time.Sleep(20 * time.Second) // the daemon looks every five seconds
	equal(t, "state of a VM that was idle for less than its time", show(t, h, "idle").State, model.Running)
	ok(t, h, "rm", "--force", "idle")
	h.CheckNoLeaks(t, before)
}

// clockOf returns the time that the daemon's clock shows.
func clockOf(t *testing.T, h *testkit.Home) time.Time {
	t.Helper()
	name := "clock-" + strings.ToLower(strings.ReplaceAll(time.Now().Format("150405.000"), ".", "-"))
	ok(t, h, "vm", "create", "--name", name)
	created := show(t, h, name).Created
	ok(t, h, "rm", name)
	return created
}

// spread returns the time between the earliest and the latest moment.
func spread(times []time.Time) time.Duration {
	first, last := times[0], times[0]
	for _, at := range times {
		if at.Before(first) {
			first = at
		}
		if at.After(last) {
			last = at
		}
	}
	return last.Sub(first)
}
