package agent

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/agent/proc"
	"banger/internal/guest/proto"
)

// fakeHalter is a freezer that halts nobody.
type fakeHalter struct {
	fail   error
	frozen bool
}

func (f *fakeHalter) Freeze(context.Context) (int, error) {
	f.frozen = f.fail == nil
	return 7, f.fail
}

func (f *fakeHalter) Thaw() error {
	f.frozen = false
	return nil
}

// testAgent returns an agent without an identity.
func testAgent(t *testing.T) (*agent, *fakeHalter) {
	h := &fakeHalter{}
	a := newAgent(slog.New(slog.DiscardHandler), "test", false)
	a.processes.freezer = h
	t.Cleanup(a.processes.table.Close)
	return a, h
}

func post(body string) *http.Request {
	return httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
}

func TestFreeze(t *testing.T) {
	a, h := testAgent(t)
	if got, err := a.freeze.freeze(post("")); got != (proto.Frozen{}) || err != nil || h.frozen {
		t.Errorf("a machine without an identity: %+v, %v", got, err)
	}
	a.life.enter(assumed)
	for range 2 { // once more is the same
		if got, err := a.freeze.freeze(post("")); got != (proto.Frozen{Processes: 7}) || err != nil || !h.frozen || a.life.now() != frozen {
			t.Errorf("freezing: %+v, %v", got, err)
		}
	}
	hello, err := a.hello.hello(httptest.NewRequest(http.MethodGet, "/v1/hello", nil))
	if h := hello.(proto.Hello); err != nil || !h.Frozen || !h.Assumed {
		t.Errorf("hello is %+v, %v", h, err)
	}
	for _, body := range []string{"", "{}", `{"entropy":"AAAA","time":"2026-01-01T00:00:00Z"}`} {
		if _, err := a.freeze.thaw(post(body)); fault.KindOf(err) != fault.Invalid || a.life.now() != frozen {
			t.Errorf("thawing by %s: %v", body, err)
		}
	}
	a.life.enter(assumed)
	a.processes.table.Resume(false)
	h.fail = errors.New("somebody runs on")
	if _, err := a.freeze.freeze(post("")); !errors.Is(err, h.fail) || a.life.now() != assumed {
		t.Errorf("a freeze that fails: %v", err)
	}
	if _, err := a.exec.commands.runner().Start(proto.ExecRequest{Argv: []string{"true"}, User: "0:0"}, proc.Streams{}); err != nil && os.Getuid() == 0 {
		t.Errorf("a command after that: %v", err)
	}
	a.life.enter(spoiled)
	if _, err := a.freeze.freeze(post("")); fault.KindOf(err) != fault.WrongState {
		t.Errorf("freezing a spoiled machine: %v", err)
	}
	valid, _ := json.Marshal(proto.Thaw{Entropy: make([]byte, 32), Time: time.Now()})
	if _, err := a.freeze.thaw(post(string(valid))); fault.KindOf(err) != fault.WrongState {
		t.Errorf("thawing a spoiled machine: %v", err)
	}
}

// TestAwaitAssumed: a request waits for a frozen machine, and is refused if the machine is a fork
// afterwards.
func TestAwaitAssumed(t *testing.T) {
	for name, tt := range map[string]struct {
		from phase
		then func(*agent)
		want string // of the error
	}{
		"unidentified": {unidentified, nil, "no identity yet"},
		"spoiled":      {spoiled, nil, "only a new start helps"},
		"running":      {assumed, nil, ""},
		"saved":        {frozen, func(a *agent) { a.life.enter(assumed) }, ""},
		"forked": {frozen, func(a *agent) {
			a.life.enter(assuming)
			a.life.fork()
			a.life.enter(assumed)
		}, "forked"},
		"lost":      {frozen, func(a *agent) { a.life.enter(spoiled) }, "only a new start helps"},
		"for long":  {frozen, nil, "frozen"},
		"for long ": {assuming, nil, "still taking on"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, _ := testAgent(t)
			a.life.enter(tt.from)
			if tt.then != nil {
				go func() {
					<-time.After(50 * time.Millisecond)
					tt.then(a)
				}()
			}
			err := a.life.awaitAssumed(t.Context())
			if tt.want == "" && err != nil || tt.want != "" && (fault.KindOf(err) != fault.WrongState || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("the request returned %v, want %q", err, tt.want)
			}
		})
	}
}

func TestWriteAtomically(t *testing.T) {
	name := filepath.Join(t.TempDir(), "new/file")
	for _, text := range []string{"long text", "short"} {
		if err := writeAtomically(name, text, 0o444); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(name); string(got) != text {
			t.Errorf("the file holds %q, want %q", got, text)
		}
	}
	if left, _ := os.ReadDir(filepath.Dir(name)); len(left) != 1 {
		t.Errorf("it leaves %v", left)
	}
}

func TestNewUUID(t *testing.T) {
	one, two := newUUID(), newUUID()
	form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	if !form.MatchString(one) || !form.MatchString(two) || one == two {
		t.Errorf("the UUIDs are %s and %s, want two different ones of version 4", one, two)
	}
}

func TestReplaceFile(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	os.WriteFile(path("file"), []byte("a longer text than the new one"), 0o644)
	os.WriteFile(path("secret"), []byte("old"), 0o600)
	os.WriteFile(path("target"), []byte("old"), 0o644)
	os.WriteFile(path("first"), []byte("old"), 0o644)
	os.Link(path("first"), path("second"))
	os.Symlink("target", path("link"))
	os.Symlink("/no/such", path("broken"))
	for _, name := range []string{"file", "secret", "link", "broken", "second", "new/in/directory"} {
		for range 2 { // the same again is nothing to do
			if err := replaceFile(path(name), []byte("new\n")); err != nil {
				t.Errorf("replacing %s: %v", name, err)
			}
		}
		info, err := os.Lstat(path(name))
		got, _ := os.ReadFile(path(name))
		if err != nil || info.Mode() != 0o644 || string(got) != "new\n" {
			t.Errorf("replaced, %s is %q, %v, %v", name, got, info, err)
		}
	}
	for _, name := range []string{"target", "first"} {
		if got, _ := os.ReadFile(path(name)); string(got) != "old" {
			t.Errorf("the other name or target %s was written, too: %q", name, got)
		}
	}
}

func TestMark(t *testing.T) {
	var m marks
	for _, name := range []string{"ready", "root", "assumed", "assumed"} {
		m.add(name)
	}
	var got []string
	for _, m := range m.all() {
		got = append(got, m.Name)
	}
	if !slices.Equal(got, []string{"ready", "root", "assumed"}) {
		t.Errorf("the marks are %q, want each once and the last one last", got)
	}
}
