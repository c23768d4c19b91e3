package e2e

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/internal/api"
	"banger/internal/model"
	"banger/internal/testkit"
)

// status returns the status of the daemon, which must be running.
func status(t *testing.T, h *testkit.Home) api.Status {
	t.Helper()
	return decode[api.Status](t, h, "daemon", "status")
}

func daemonPID(t *testing.T, h *testkit.Home) int {
	t.Helper()
	return status(t, h).PID
}

// killDaemon ends the daemon like a crash.
func killDaemon(t *testing.T, h *testkit.Home) {
	t.Helper()
	pid := daemonPID(t, h)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitDeath(t, h)
}

// awaitDeath waits until a killed daemon has released the socket and the lock. Its threads release
// them one by one, even after the process is a zombie.
func awaitDeath(t *testing.T, h *testkit.Home) {
	t.Helper()
	testkit.WaitFor(t, 10*time.Second, "the daemon is gone", func() bool {
		conn, err := net.Dial("unix", filepath.Join(h.Dir, "run", "bangerd.sock"))
		if err == nil {
			conn.Close()
			return false
		}
		lock, err := os.Open(filepath.Join(h.Dir, "state", "lock"))
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Close()
		return syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
	})
}

// TestDaemon starts, checks and stops the daemon.
func TestDaemon(t *testing.T) {
	h := warm(t)
	if r := h.Banger(t, "daemon", "status"); r.Code == 0 {
		t.Error("daemon status succeeds without a daemon")
	}
	ok(t, h, "vm", "list") // this starts the daemon
	pid := daemonPID(t, h)
	ok(t, h, "daemon", "start")
	equal(t, "pid after a second start", daemonPID(t, h), pid)

	t.Run("a second daemon is refused", func(t *testing.T) {
		r := h.RunCmd(t, "", filepath.Join(h.Bin, "bangerd"))
		if r.Code == 0 {
			t.Error("two daemons on one BANGER_HOME")
		}
		has(t, r.Stderr, strconv.Itoa(pid))
		equal(t, "pid", daemonPID(t, h), pid)
	})
	t.Run("two at once", func(t *testing.T) {
		ok(t, h, "daemon", "stop")
		list := func() testkit.Result { return h.Banger(t, "vm", "list") }
		for _, r := range parallel(list, list, list, list) {
			equal(t, "exit status", r.Code, 0)
		}
		pid = daemonPID(t, h)
	})
	t.Run("logs", func(t *testing.T) {
		if ok(t, h, "daemon", "logs") == "" {
			t.Error("no log")
		}
	})
	t.Run("the API's description", func(t *testing.T) {
		var served map[string]any
		if err := json.Unmarshal(get(t, h, "/v1/openapi.json", http.StatusOK), &served); err != nil {
			t.Fatal(err)
		}
		if version, _ := served["openapi"].(string); !strings.HasPrefix(version, "3.1") {
			t.Errorf("openapi: %q", version)
		}
		get(t, h, "/v1/no/such/thing", http.StatusNotFound)
	})
	t.Run("a browser is refused", func(t *testing.T) {
		for name, value := range map[string]string{"Origin": "https://example.org", "Host": "example.org"} {
			if status := request(t, h, "/v1/vms", name, value); status < 400 {
				t.Errorf("a request with %s: %s gets %d", name, value, status)
			}
		}
	})
	t.Run("survives with running VMs", func(t *testing.T) { testDaemonDies(t, h) })
	ok(t, h, "daemon", "stop")
	ok(t, h, "daemon", "stop")
}

// testDaemonDies kills the daemon of running VMs, and also stops it in the normal way.
func testDaemonDies(t *testing.T, h *testkit.Home) {
	ok(t, h, "run", "-d", "--name", "alive")
	ok(t, h, "exec", "alive", "--", "sh", "-c", "echo here >/tmp/file; (sleep 1000; true) >/dev/null 2>&1 &")
	machine := machinePID(t, h, "alive")
	_, interrupted := h.Start(t, "exec", "alive", "--", "sh", "-c", "echo ready; sleep 1000")
	interrupted.Expect(t, "ready")
	killDaemon(t, h)
	if code := interrupted.Wait(t); code == 0 {
		t.Error("a command whose daemon died succeeded")
	}
	for _, how := range []string{"killed", "stopped"} {
		if how == "stopped" {
			ok(t, h, "daemon", "stop")
		}
		vm := show(t, h, "alive")
		equal(t, "state with the daemon "+how, vm.State, model.Running)
		equal(t, "machine's pid with the daemon "+how, vm.Runtime.PID, machine)
		equal(t, "file with the daemon "+how, ok(t, h, "exec", "alive", "--", "cat", "/tmp/file"), "here\n")
	}
	// This machine ends while no daemon runs.
	killDaemon(t, h)
	if err := syscall.Kill(machine, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testkit.WaitFor(t, 20*time.Second, "the VM is known not to run", func() bool { return !show(t, h, "alive").State.Live() })
	ok(t, h, "vm", "start", "alive")
	killDaemon(t, h)
	ok(t, h, "vm", "stop", "alive")
	ok(t, h, "vm", "delete", "alive")
}

// socketClient speaks HTTP to the daemon's socket without banger's client.
func socketClient(h *testkit.Home) *http.Client {
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(h.Dir, "run", "bangerd.sock"))
		},
	}}
}

func get(t *testing.T, h *testkit.Home, path string, want int) []byte {
	t.Helper()
	resp, err := socketClient(h).Get("http://" + api.Host + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	equal(t, "status of "+path, resp.StatusCode, want)
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// request sends a request with one header and returns the HTTP status.
func request(t *testing.T, h *testkit.Home, path, header, value string) int {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+api.Host+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if header == "Host" {
		req.Host = value
	} else {
		req.Header.Set(header, value)
	}
	resp, err := socketClient(h).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}
