package server

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/model"
	"banger/internal/requestid"
	"banger/internal/step"
)

// head sends a request and returns the head of the answer.
func head(t *testing.T, w *world, text string) *http.Response {
	t.Helper()
	conn, err := net.Dial("unix", w.client.Socket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, strings.ReplaceAll(text, "\n", "\r\n")); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func TestRequestIDHeader(t *testing.T) {
	t.Parallel()
	w := serve(t)
	const upgrade = "Connection: Upgrade\nUpgrade: banger-stream\nContent-Length: 0\n"
	for what, c := range map[string]struct{ request, want string }{
		"none":            {"GET /v1/version HTTP/1.1\nHost: banger\n\n", ""},
		"a valid one":     {"GET /v1/version HTTP/1.1\nHost: banger\nBanger-Request-Id: build-7\n\n", "build-7"},
		"an invalid one":  {"GET /v1/version HTTP/1.1\nHost: banger\nBanger-Request-Id: a b\n\n", ""},
		"a long one":      {"GET /v1/version HTTP/1.1\nHost: banger\nBanger-Request-Id: " + strings.Repeat("x", 65) + "\n\n", ""},
		"a refusal":       {"GET /v1/version HTTP/1.1\nHost: elsewhere\nBanger-Request-Id: r\n\n", "r"},
		"no such path":    {"GET /v9 HTTP/1.1\nHost: banger\nBanger-Request-Id: p\n\n", "p"},
		"a stream's head": {"POST /v1/vms/box/exec HTTP/1.1\nHost: banger\nBanger-Request-Id: s\n" + upgrade + "\n", "s"},
	} {
		got := head(t, w, c.request).Header.Get(api.HeaderRequestID)
		if c.want != "" && got != c.want {
			t.Errorf("%s: the answer has id %q, want %q", what, got, c.want)
		}
		if !requestid.Valid(got) {
			t.Errorf("%s: the answer has no valid id: %q", what, got)
		}
	}
}

// TestRequestIDOfFailures looks for the id in problems, events, frames and the context of the
// manager.
func TestRequestIDOfFailures(t *testing.T) {
	t.Parallel()
	w := serve(t)
	var seen string
	w.m.start = func(ctx context.Context, report step.Reporter) error {
		seen = requestid.From(ctx)
		report.Report(step.Event{Step: "a", Phase: step.Started})
		return errors.New("a bug")
	}
	for what, do := range map[string]func(ctx context.Context) error{
		"JSON": func(ctx context.Context) error {
			_, err := w.client.VMs().Start(ctx, "box", model.Start{}, nil)
			return err
		},
		"events": func(ctx context.Context) error {
			_, err := w.client.VMs().Start(ctx, "box", model.Start{}, func(step.Event) {})
			return err
		},
		"frames": func(ctx context.Context) error {
			stream, err := w.client.Guests().Run(ctx, api.Run{VM: model.Create{Name: "new"}, Exec: proto.ExecRequest{Argv: []string{"x"}}})
			if err != nil {
				return err
			}
			defer stream.Close()
			_, err = (&api.Receiver{}).Receive(stream)
			return err
		},
	} {
		seen = ""
		id := "id-of-" + what
		err := do(requestid.With(deadline(t), id))
		var failed *api.Error
		if !errors.As(err, &failed) || failed.Problem.RequestID != id {
			t.Errorf("%s: the error %v does not carry the id %s", what, err, id)
		}
		if seen != id {
			t.Errorf("%s: the manager was called with the id %q, want %q", what, seen, id)
		}
		if !strings.Contains(w.logged(), "internal error") {
			t.Errorf("%s: the log does not hold the internal error", what)
		}
	}
}

func TestDebugRoutes(t *testing.T) {
	t.Parallel()
	w := serve(t)
	if dump, err := w.client.Daemon().Goroutines(deadline(t)); err != nil || !strings.Contains(string(dump), "server.goroutines(") {
		t.Errorf("the goroutine dump is %.200q, %v", dump, err)
	}
	if _, err := w.client.Daemon().Metrics(deadline(t)); fault.KindOf(err) != fault.Unsupported {
		t.Errorf("metrics of a server without any: %v", err)
	}
	for path, c := range map[string]struct {
		status int
		says   string
	}{
		"/debug/pprof/":                         {200, "goroutine "},
		"/debug/pprof/goroutine?debug=1":        {200, "goroutine profile: total"},
		"/debug/pprof/heap":                     {200, "\x1f\x8b"}, // gzip
		"/debug/pprof/trace?seconds=1":          {200, "go 1."},
		"/debug/pprof/profile?seconds=301":      {400, "300"},
		"/debug/pprof/profile?seconds=none":     {400, "seconds"},
		"/debug/pprof/profile?seconds=1":        {200, "\x1f\x8b"},
		"/debug/pprof/nothing":                  {404, "no profile"},
		"/debug/goroutines?x=%2e%2e/etc/passwd": {200, "goroutine"},
	} {
		status, body := exchange(t, w, "GET "+path+" HTTP/1.1\nHost: banger\n\n")
		if status != c.status || !strings.Contains(body, c.says) {
			t.Errorf("%s: %d %.100q, want %d and %q", path, status, body, c.status, c.says)
		}
		if status, _ := exchange(t, w, "GET "+path+" HTTP/1.1\nHost: banger\nOrigin: http://x\n\n"); status != 403 {
			t.Errorf("%s: a web page was answered with %d", path, status)
		}
	}
}

func TestRequestsAreCounted(t *testing.T) {
	t.Parallel()
	w := serve(t)
	exchange(t, w, "GET /v1/vms/box HTTP/1.1\nHost: banger\n\n")
	exchange(t, w, "GET /v1/vms/"+strings.Repeat("x", 100)+" HTTP/1.1\nHost: banger\n\n")
	exchange(t, w, "BREW /coffee HTTP/1.1\nHost: banger\n\n")
	exchange(t, w, "GET /v1/vms HTTP/1.1\nHost: elsewhere\n\n")
	rawExec(t, w).Close()
	want := map[string]int{
		"GET /v1/vms/{ref} 200": 1, "GET /v1/vms/{ref} 404": 1, "other other 404": 1, "other other 403": 1,
		"POST /v1/vms/{ref}/exec 101": 1,
	}
	for key, n := range want {
		for begun := time.Now(); w.counted(key) != n; time.Sleep(time.Millisecond) {
			if time.Since(begun) > 10*time.Second {
				t.Errorf("%s was counted %d times, want %d", key, w.counted(key), n)
				break
			}
		}
	}
}
