package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"banger/internal/api"
	"banger/internal/config"
	"banger/internal/fault"
	"banger/internal/paths"
	"banger/internal/requestid"
)

// live runs a daemon with a configuration in this process and returns a client of it.
func live(t *testing.T, layout paths.Layout, configuration string) *api.Client {
	t.Helper()
	if err := os.MkdirAll(layout.Config, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(layout.ConfigFile(), []byte(configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	ready, said := testReady(t)
	ctx, stop := context.WithCancel(testContext(t))
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, Options{Layout: layout, LookupEnv: noEnv, Ready: ready}) }()
	if got := <-said; got != api.ReadyLine+"\n" {
		stop()
		t.Fatalf("the daemon said %q; %v", got, <-ended)
	}
	c := api.Dial(layout.Socket())
	t.Cleanup(func() {
		c.Close()
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the daemon ended with %v", err)
		}
	})
	return c
}

func TestRequestIDInLog(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		var out bytes.Buffer
		log := newLogger(&out, &config.Config{LogFormat: format}).With("vm", "0123")
		log.InfoContext(requestid.With(t.Context(), "r-1"), "started")
		log.InfoContext(t.Context(), "alone")
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 2 {
			t.Fatalf("%s: %d lines: %q", format, len(lines), lines)
		}
		if want := map[string]string{"text": "vm=0123 request=r-1", "json": `"vm":"0123","request":"r-1"`}[format]; !strings.Contains(lines[0], want) {
			t.Errorf("%s: the line of a request is %s, want %s in it", format, lines[0], want)
		}
		if strings.Contains(lines[1], "request") {
			t.Errorf("%s: a line without a request is %s", format, lines[1])
		}
		if valid := json.Valid([]byte(lines[0])); valid != (format == "json") {
			t.Errorf("%s: the line is JSON: %v: %s", format, valid, lines[0])
		}
	}
	var out bytes.Buffer
	newLogger(&out, &config.Config{LogLevel: slog.LevelWarn}).Info("quiet")
	if out.Len() > 0 {
		t.Errorf("a level that is off was logged: %s", &out)
	}
}

func TestJSONLog(t *testing.T) {
	layout := testLayout(t)
	c := live(t, layout, "log_format = \"json\"\nlog_level = \"debug\"\n")
	if _, err := c.Daemon().Version(requestid.With(testContext(t), "my-id")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Daemon().Version(testContext(t)); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(layout.DaemonLog())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(log)) {
		if !json.Valid([]byte(line)) {
			t.Errorf("no JSON: %s", line)
		}
	}
	if !strings.Contains(string(log), `"operation":"version"`) || !strings.Contains(string(log), `"request":"my-id"`) {
		t.Errorf("the log lacks the request:\n%s", log)
	}
}

func TestMetrics(t *testing.T) {
	layout := testLayout(t)
	c := live(t, layout, "metrics_listen = \"127.0.0.1:0\"\n")
	if _, err := c.VMs().List(testContext(t)); err != nil {
		t.Fatal(err)
	}
	got, err := c.Daemon().Metrics(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`banger_vms{state="running"} 0`, `banger_api_requests_total{route="/v1/vms",method="GET",code="200"} 1`,
		`banger_host_bytes{kind="image"} `, `banger_forks_total 0`, `go_goroutines `, `process_resident_memory_bytes `,
	} {
		if !strings.Contains(string(got), "\n"+line) {
			t.Errorf("the metrics lack %s", line)
		}
	}
	log, err := os.ReadFile(layout.DaemonLog())
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`serving metrics.*address=(\S+)`).FindSubmatch(log)
	if m == nil {
		t.Fatalf("the log does not name the metrics' address:\n%s", log)
	}
	address := string(m[1])
	for _, r := range []struct {
		path, host string
		status     int
	}{{"/metrics", "", 200}, {"/metrics", "localhost:1", 200}, {"/metrics", "evil.example", 403}, {"/v1/vms", "", 404}, {"/debug/pprof/", "", 404}} {
		if status, body := get(t, "http://"+address+r.path, r.host); status != r.status {
			t.Errorf("%s for host %q: %d %.100s, want %d", r.path, r.host, status, body, r.status)
		}
	}
	// Another daemon finds the port in use and reports it.
	other := testLayout(t)
	if err := os.MkdirAll(filepath.Dir(other.ConfigFile()), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other.ConfigFile(), fmt.Appendf(nil, "metrics_listen = %q\n", address), 0o600); err != nil {
		t.Fatal(err)
	}
	err = Run(testContext(t), Options{Layout: other, LookupEnv: noEnv})
	if fault.KindOf(err) != fault.Unavailable || !strings.Contains(fault.HintOf(err), "metrics_listen") {
		t.Errorf("a port that is taken: %v, hint %q", err, fault.HintOf(err))
	}
}

func get(t *testing.T, url, host string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(testContext(t), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host, req.Close = host, true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}
