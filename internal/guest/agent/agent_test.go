package agent

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/agent/mount"
	"banger/internal/guest/proto"
)

func validAssume() proto.Assume {
	return proto.Assume{
		Entropy: make([]byte, 32), Time: time.Now(), Hostname: "vm",
		Root: proto.Root{Image: "image", System: "system"},
		Networks: []proto.Network{
			{Address: "10.0.2.15/24", Gateway: "10.0.2.2", DNS: []string{"10.0.2.3"}, MAC: "52:54:00:12:34:56"},
			{Card: proto.Card{MAC: "02:00:00:00:00:01"}, Address: "fd00::2/64"},
		},
		Mounts: []proto.Mount{{Serial: "work", Target: "/root"}},
		Files:  []proto.File{{Path: "/etc/x", Mode: 0o644}},
	}
}

func TestCheck(t *testing.T) {
	if err := check(validAssume()); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*proto.Assume){
		"entropy":        func(a *proto.Assume) { a.Entropy = a.Entropy[1:] },
		"time":           func(a *proto.Assume) { a.Time = time.Time{} },
		"hostname":       func(a *proto.Assume) { a.Hostname = "" },
		"hostname line":  func(a *proto.Assume) { a.Hostname = "a\n1.2.3.4 b" },
		"root":           func(a *proto.Assume) { a.Root.System = "" },
		"image size":     func(a *proto.Assume) { a.Root.ImageSize = -1 },
		"mount size":     func(a *proto.Assume) { a.Mounts[0].Size = -1 },
		"workdir":        func(a *proto.Assume) { a.Workdir = "x" },
		"machine id":     func(a *proto.Assume) { a.MachineID = "0123" },
		"machine id hex": func(a *proto.Assume) { a.MachineID = strings.Repeat("x", 32) },
		"host key":       func(a *proto.Assume) { a.HostKey = []byte("no key") },
		"mount at root":  func(a *proto.Assume) { a.Mounts[0].Target = "/../" },
		"mount relative": func(a *proto.Assume) { a.Mounts[0].Target = "root" },
		"mount serial":   func(a *proto.Assume) { a.Mounts[0].Serial = "" },
		"file relative":  func(a *proto.Assume) { a.Files[0].Path = "x" },
		"file directory": func(a *proto.Assume) { a.Files[0].Path = "/x/" },
		"file mode":      func(a *proto.Assume) { a.Files[0].Mode = 0o100644 },
		"address":        func(a *proto.Assume) { a.Networks[0].Address = "10.0.2.15" },
		"gateway":        func(a *proto.Assume) { a.Networks[0].Gateway = "gw" },
		"mac":            func(a *proto.Assume) { a.Networks[0].MAC = "xx" },
		"dns":            func(a *proto.Assume) { a.Networks[0].DNS = []string{"1.1.1.1\nnameserver 2.2.2.2"} },
		"search":         func(a *proto.Assume) { a.Networks[0].Search = []string{"a\nb"} },
		"card address":   func(a *proto.Assume) { a.Networks[1].Card.MAC = "x" },
		"card index":     func(a *proto.Assume) { a.Networks[0].Card.Index = -1 },
		"card twice":     func(a *proto.Assume) { a.Networks[1].Card = a.Networks[0].Card },
		"many cards":     func(a *proto.Assume) { a.Networks = make([]proto.Network, 1000) },
	} {
		doc := validAssume()
		spoil(&doc)
		if err := check(doc); fault.KindOf(err) != fault.Invalid {
			t.Errorf("a document with a wrong %s returned %v, want fault.Invalid", name, err)
		}
	}
}

func FuzzCheck(f *testing.F) {
	seed, _ := json.Marshal(validAssume())
	f.Add(seed)
	f.Add([]byte(`{"networks":[{}],"mounts":[{}],"files":[{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(string(data)))
		var doc proto.Assume
		if readJSON(r, proto.MaxAssume, &doc) == nil {
			check(doc)
		}
	})
}

func TestHosts(t *testing.T) {
	image := "127.0.0.1 localhost\n# a comment\n192.0.2.1 kept"
	once := hosts([]byte(image), "one")
	twice := string(hosts(once, "two"))
	want := "127.0.0.1\tlocalhost # banger\n::1\tlocalhost ip6-localhost ip6-loopback # banger\n127.0.1.1\ttwo # banger\n" + image + "\n"
	if twice != want {
		t.Errorf("got\n%s\nwant\n%s", twice, want)
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	file := proto.File{Path: filepath.Join(dir, "a/b/file"), Mode: 0o640, UID: os.Getuid(), GID: os.Getgid(), Data: []byte("long text")}
	for range 2 {
		if err := writeFile(file); err != nil {
			t.Fatal(err)
		}
		file.Data = []byte("short")
		file.Mode = 0o600
	}
	if got, _ := os.ReadFile(file.Path); string(got) != "short" {
		t.Errorf("the file holds %q after a second write, want %q", got, "short")
	}
	for name, want := range map[string]os.FileMode{"a": 0o755, "a/b": 0o755, "a/b/file": 0o600} {
		if info, _ := os.Stat(filepath.Join(dir, name)); info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), want)
		}
	}
	syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600)
	for _, bad := range []string{"a", "pipe", "a/b/file/below"} {
		file.Path = filepath.Join(dir, bad)
		if err := writeFile(file); err == nil {
			t.Errorf("%s was written", bad)
		}
	}
}

func TestProcFiles(t *testing.T) {
	tcp := "  sl  local_address rem_address   st\n" +
		"   0: 0100007F:1F90 00000000:0000 0A 0\n" +
		"   1: 0100007F:1F91 0100007F:1F90 01 0\n" +
		"   2: 00000000000000000000000001000000:0016 0:0 0A 0\n" +
		"   3: 0000000000000000FFFF00000100007F:0050 0:0 0A 0\n" +
		"   4: XX:0016 0:0 0A\n   5: 00:1 x 0A\n   6\n"
	got := parseListeners([]byte(tcp))
	want := []proto.Port{{Port: 8080, Addr: "127.0.0.1"}, {Port: 22, Addr: "::1"}, {Port: 80, Addr: "127.0.0.1"}}
	if len(got) != len(want) || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("listeners: %v", got)
	}
	if got := cpuBusy([]byte("cpu  100 0 50 900 30 1 2 3 40 0\ncpu0 1")); got != 1560*time.Millisecond {
		t.Errorf("busy: %v", got)
	}
	net := "Inter-|   Receive\n face |bytes\n    lo: 5 0 0 0 0 0 0 0 6 0\n  eth0:10 0 0 0 0 0 0 0 20 0\n  x: 1"
	if rx, tx := netBytes([]byte(net)); rx != 10 || tx != 20 {
		t.Errorf("net: %d, %d", rx, tx)
	}
}

func FuzzParseListeners(f *testing.F) {
	f.Add([]byte("   0: 0100007F:1F90 00000000:0000 0A 0\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		parseListeners(text)
		cpuBusy(text)
		netBytes(text)
		fields(text)
	})
}

func TestIsPress(t *testing.T) {
	press := make([]byte, eventSize)
	press[eventType], press[eventCode], press[eventValue] = evKey, keyPower, 1
	release := append([]byte(nil), press...)
	release[eventValue] = 0
	if !isPress(press) || isPress(release) || isPress(make([]byte, eventSize)) {
		t.Error("presses are not told from others")
	}
}

// TestRoutes asks a machine without an identity over a real connection.
func TestRoutes(t *testing.T) {
	a, _ := testAgent(t)
	server := httptest.NewServer(a.routes())
	defer server.Close()
	for _, tt := range []struct {
		method, path, body string
		status             int
		kind               string
	}{
		{"GET", "/v1/hello", "", 200, ""},
		{"GET", "/v1/stats", "", 409, "wrong-state"},
		{"POST", "/v1/exec", "", 409, "wrong-state"},
		{"POST", "/v1/dial?port=1", "", 409, "wrong-state"},
		{"GET", "/v1/files?path=/", "", 409, "wrong-state"},
		{"POST", "/v1/assume", "{", 400, "invalid"},
		{"POST", "/v1/assume", `{"entropy":5}`, 400, "invalid"},
		{"POST", "/v1/assume", "{}", 400, "invalid"},
		{"POST", "/v1/freeze", "", 200, ""},
		{"POST", "/v1/thaw", "{}", 400, "invalid"},
		{"GET", "/v2/hello", "", 404, ""},
	} {
		req, _ := http.NewRequest(tt.method, server.URL+tt.path, strings.NewReader(tt.body))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var e proto.Error
		json.NewDecoder(resp.Body).Decode(&e)
		resp.Body.Close()
		if resp.StatusCode != tt.status || e.Kind != tt.kind {
			t.Errorf("%s %s answers %d, %+v; want %d, %q", tt.method, tt.path, resp.StatusCode, e, tt.status, tt.kind)
		}
	}
	a.life.enter(assumed)
	for path, kind := range map[string]string{
		"/v1/exec": "invalid", "/v1/dial?port=0": "invalid", "/v1/dial?port=x": "invalid",
		"/v1/resize?serial=none": "not-found", "/v1/resize?size=-1": "invalid",
	} {
		resp, err := http.Post(server.URL+path, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		var e proto.Error
		json.NewDecoder(resp.Body).Decode(&e)
		resp.Body.Close()
		if e.Kind != kind {
			t.Errorf("%s answers %+v, want kind %s", path, e, kind)
		}
	}
}

// TestTunnel: both directions of a dialled connection end separately.
func TestTunnel(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		all, _ := io.ReadAll(conn) // until the client ends its direction
		conn.Write(append([]byte("got "), all...))
		conn.Close()
	}()
	target, err := dialLocal(t.Context(), ln.Addr().(*net.TCPAddr).Port)
	if err != nil {
		t.Fatal(err)
	}
	host, guest := net.Pipe()
	go splice(proto.NewTunnel(guest), target.(*net.TCPConn))
	tunnel := proto.NewTunnel(host)
	if _, err := io.WriteString(tunnel, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := tunnel.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(tunnel); string(got) != "got hello" || err != nil {
		t.Errorf("the tunnel's other direction reads %q, %v", got, err)
	}
}

func TestHandoverState(t *testing.T) {
	want := handoverState{
		Transport: onVsock,
		Identity:  identity{Env: []string{"A=1"}, User: "ada", HostKey: []byte("key"), AuthorizedKeys: []string{"k"}},
		Networks:  []proto.Network{{Address: "10.0.2.15/24"}},
		Marks:     []proto.Mark{{Name: "ready", At: 5}},
		Drives:    []mount.Drive{{Serial: "work", Dev: "/dev/vdc", Target: "/root"}},
	}
	f, err := stateFile(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := readState(f)
	if err != nil {
		t.Fatalf("reading the handover: %v", err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the copy reads %+v, want %+v", got, want)
	}
}

// TestCardsOfAFork: a fork with its parent's networks does not touch the cards. The card of this
// test does not exist, so touching it fails.
func TestCardsOfAFork(t *testing.T) {
	network := func(address string) []proto.Network {
		return []proto.Network{{Card: proto.Card{MAC: "02:00:00:00:00:99"}, Address: address}}
	}
	c := cards{networks: network("10.0.2.15/24")}
	if err := c.assign(network("10.0.2.15/24")); err != nil {
		t.Errorf("assigning the parent's networks returned %v, want no access to a card", err)
	}
	if err := c.assign(network("10.0.2.16/24")); err == nil {
		t.Error("assigning other networks did not look for the card")
	}
	if got := c.networks[0].Address; got != "10.0.2.15/24" {
		t.Errorf("after a failure the cards count as configured with %s", got)
	}
}
