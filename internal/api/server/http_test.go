package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// TestCalls sends each kind of call through the client and checks the manager's calls.
func TestCalls(t *testing.T) {
	t.Parallel()
	w := serve(t)
	ctx := deadline(t)
	second := 2 * time.Second
	memory := 512 * model.MiB
	for _, call := range []struct {
		want string
		do   func(c *api.Client) error
	}{
		{"start " + runID, func(c *api.Client) error {
			var named string
			v, err := c.VMs().Launch(ctx, model.Create{Name: "new"}, func(e step.Event) { named += e.Step + " " + e.Detail })
			if v.State != model.Running || named != "vm new" {
				t.Errorf("launched: %s, and told of %q", v.State, named)
			}
			return err
		}},
		{"create new", func(c *api.Client) error { _, err := c.VMs().Create(ctx, model.Create{Name: "new"}, nil); return err }},
		{"start box", func(c *api.Client) error { _, err := c.VMs().Start(ctx, "box", model.Start{}, nil); return err }},
		{"stop box 2s", func(c *api.Client) error {
			_, err := c.VMs().Stop(ctx, "box", api.VMStop{Timeout: &second}, nil)
			return err
		}},
		{"stop box", func(c *api.Client) error { _, err := c.VMs().Stop(ctx, "box", api.VMStop{}, nil); return err }},
		{"restart box", func(c *api.Client) error { _, err := c.VMs().Restart(ctx, "box", api.VMStop{}, nil); return err }},
		{"kill box SIGKILL", func(c *api.Client) error { _, err := c.VMs().Kill(ctx, "box", api.VMKill{}); return err }},
		{"kill box SIGTERM", func(c *api.Client) error { _, err := c.VMs().Kill(ctx, "box", api.VMKill{Signal: "term"}); return err }},
		{"rename box other", func(c *api.Client) error { _, err := c.VMs().Rename(ctx, "box", "other"); return err }},
		{"set box 512M", func(c *api.Client) error {
			_, err := c.VMs().Change(ctx, "box", model.Change{Memory: &memory})
			return err
		}},
		{"delete by force new", func(c *api.Client) error { return c.VMs().Delete(ctx, "new", api.VMDelete{Force: true}, nil) }},
		{"delete box", func(c *api.Client) error { return c.VMs().Delete(ctx, "box", api.VMDelete{}, nil) }},
	} {
		if err := call.do(w.client); err != nil {
			t.Errorf("%s: %v", call.want, err)
		}
		calls := w.m.noted()
		if got := calls[len(calls)-1]; got != call.want {
			t.Errorf("the manager was asked %q, want %q", got, call.want)
		}
	}
	if vms, err := w.client.VMs().List(ctx); err != nil || vms == nil || len(vms) != 0 {
		t.Errorf("an empty list came as %#v, %v", vms, err)
	}
}

// TestDeleteUsed deletes images in use: the hint says what to delete first.
func TestDeleteUsed(t *testing.T) {
	t.Parallel()
	w := serve(t)
	for ref, hint := range map[string]string{
		"img":  "Delete what uses it first: banger vm delete box",
		"kept": "Delete what uses it first: banger snapshot delete ims",
		"lost": `To get the lost VMs back: banger daemon stop; banger daemon recover. To delete them: rm -r '/x/lost/it'\''s' '/x/lost/2'`,
		"both": "Delete what uses it first: banger vm delete box web; banger snapshot delete ims",
	} {
		err := w.client.Images().Delete(deadline(t), ref)
		if fault.KindOf(err) != fault.WrongState || !strings.Contains(err.Error(), "is used by ") || fault.HintOf(err) != hint {
			t.Errorf("%s: %v, hint %q", ref, err, fault.HintOf(err))
		}
	}
	if i, err := w.client.Images().Tag(deadline(t), "free", "a/b:c"); err != nil || i.ID != "free" || i.Names[0] != "a/b:c" {
		t.Errorf("a tagged image is %+v, %v", i, err)
	}
	if k, err := w.client.Kernels().Tag(deadline(t), "free", "mine"); err != nil || k.ID != "free" || k.Names[0] != "mine" {
		t.Errorf("a tagged kernel is %+v, %v", k, err)
	}
	if _, err := w.client.Images().Tag(deadline(t), "free", ""); fault.KindOf(err) != fault.Invalid {
		t.Errorf("an empty name: %v", err)
	}
	if err := w.client.Images().Delete(deadline(t), "free"); err != nil {
		t.Error(err)
	}
}

func TestReads(t *testing.T) {
	t.Parallel()
	w := serve(t)
	ctx := deadline(t)
	if v, err := w.client.Daemon().Version(ctx); err != nil || v.Version != "test" {
		t.Errorf("version: %+v, %v", v, err)
	}
	if s, err := w.client.Daemon().Status(ctx); err != nil || s.VMs[model.Running] != 1 || s.Version.Version != "test" {
		t.Errorf("status: %+v, %v", s, err)
	}
	if doc, err := w.client.Daemon().OpenAPI(ctx); err != nil || !strings.HasPrefix(string(doc), "{") {
		t.Errorf("openapi: %.20q, %v", doc, err)
	}
	if v, err := w.client.VMs().Get(ctx, "box"); err != nil || v.ID != testID {
		t.Errorf("VM: %+v, %v", v, err)
	}
	if s, err := w.client.VMs().Stats(ctx, "box"); err != nil || s.CPU != time.Second {
		t.Errorf("stats: %+v, %v", s, err)
	}
	if p, err := w.client.Guests().Ports(ctx, "box"); err != nil || p == nil {
		t.Errorf("ports: %#v, %v", p, err)
	}
	// A reference with slashes is one segment of the path.
	if i, err := w.client.Images().Get(ctx, "docker.io/library/alpine:3"); err != nil || i.ID != "other" {
		t.Errorf("image: %+v, %v", i, err)
	}
	if _, err := w.client.VMs().Get(ctx, ".."); fault.KindOf(err) != fault.NotFound {
		t.Errorf("VM ..: %v", err)
	}
}

// TestProblems sends each kind of error through the server and the client.
func TestProblems(t *testing.T) {
	t.Parallel()
	w := serve(t)
	for _, kind := range []fault.Kind{fault.NotFound, fault.Exists, fault.Invalid, fault.WrongState, fault.Locked, fault.Denied,
		fault.Unsupported, fault.Unavailable, fault.Canceled, fault.Internal} {
		for _, report := range []step.Reporter{nil, func(step.Event) {}} {
			w.m.start = func(context.Context, step.Reporter) error {
				return fmt.Errorf("around: %w", fault.New(kind, "because of %s", kind).WithHint("do this"))
			}
			_, err := w.client.VMs().Start(deadline(t), "box", model.Start{}, report)
			var problem *api.Error
			if !errors.As(err, &problem) || fault.KindOf(err) != kind || fault.HintOf(err) != "do this" ||
				err.Error() != "around: because of "+string(kind) {
				t.Errorf("%s: got %v (%s, hint %q)", kind, err, fault.KindOf(err), fault.HintOf(err))
				continue
			}
			if p := problem.Problem; p.VM != testID || p.Status != kind.HTTPStatus() || p.Type != "urn:banger:problem:"+string(kind) || p.Title == "" {
				t.Errorf("%s: %+v", kind, p)
			}
		}
	}
}

// TestFailedStart checks the step and the log of a start that failed.
func TestFailedStart(t *testing.T) {
	t.Parallel()
	w := serve(t)
	w.m.start = func(_ context.Context, report step.Reporter) error {
		report.Report(step.Event{Step: "machine", Phase: step.Failed, Error: "no"})
		v, _ := w.m.Get("box")
		v.LastError = &model.Failure{Step: "machine", Msg: "no", Hint: "free some memory", Log: "/vmm.log"}
		w.m.put(v)
		return &step.Error{Step: "machine", Err: errors.New("no")}
	}
	for _, report := range []step.Reporter{nil, func(step.Event) {}} {
		_, err := w.client.VMs().Start(deadline(t), "box", model.Start{}, report)
		var problem *api.Error
		if !errors.As(err, &problem) {
			t.Fatal(err)
		}
		if p := problem.Problem; p.Step != "machine" || p.Log != "/vmm.log" || p.Hint != "free some memory" || fault.HintOf(err) != "free some memory" {
			t.Errorf("%+v", p)
		}
	}
}

func TestSteps(t *testing.T) {
	t.Parallel()
	w := serve(t)
	want := []step.Event{
		{Step: "a", Phase: step.Started},
		{Step: "a", Phase: step.Progress, Done: 1, Total: 2, Unit: "bytes"},
		{Step: "a", Phase: step.Done, Detail: "line one\nline two: \"quoted\""},
	}
	w.m.start = func(_ context.Context, report step.Reporter) error {
		for _, e := range want {
			report(e)
		}
		return nil
	}
	var got []step.Event
	v, err := w.client.VMs().Start(deadline(t), "box", model.Start{}, func(e step.Event) { e.Time = time.Time{}; got = append(got, e) })
	if err != nil || v.ID != testID {
		t.Fatal(v, err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}

// TestManySteps reports faster than the client reads: only progress may be lost.
func TestManySteps(t *testing.T) {
	t.Parallel()
	w := serve(t)
	w.m.start = func(_ context.Context, report step.Reporter) error {
		for i := range 200 {
			report(step.Event{Step: fmt.Sprint(i), Phase: step.Started})
			for j := range 100 {
				report(step.Event{Step: fmt.Sprint(i), Phase: step.Progress, Done: int64(j)})
			}
		}
		return nil
	}
	var started int
	_, err := w.client.VMs().Start(deadline(t), "box", model.Start{}, func(e step.Event) {
		if e.Phase == step.Started {
			started++
		}
	})
	if err != nil || started != 200 {
		t.Errorf("%d of 200 steps were told: %v", started, err)
	}
}

// TestClientGone cancels requests and waits for the manager to notice.
func TestClientGone(t *testing.T) {
	t.Parallel()
	w := serve(t)
	for _, report := range []step.Reporter{nil, func(step.Event) {}} {
		begun, ended := make(chan struct{}), make(chan error, 1)
		w.m.start = func(ctx context.Context, report step.Reporter) error {
			report.Report(step.Event{Step: "a", Phase: step.Started})
			close(begun)
			<-ctx.Done()
			ended <- ctx.Err()
			return ctx.Err()
		}
		ctx, cancel := context.WithCancel(deadline(t))
		result := make(chan error, 1)
		go func() { _, err := w.client.VMs().Start(ctx, "box", model.Start{}, report); result <- err }()
		await(t, "the start", begun)
		cancel()
		await(t, "the manager's notice", ended)
		if err := await(t, "the client's return", result); fault.KindOf(err) != fault.Canceled {
			t.Errorf("the client returned %v", err)
		}
	}
}

func TestPanic(t *testing.T) {
	t.Parallel()
	w := serve(t)
	for _, report := range []step.Reporter{nil, func(step.Event) {}} {
		w.m.start = func(context.Context, step.Reporter) error { panic("at the disco") }
		_, err := w.client.VMs().Start(deadline(t), "box", model.Start{}, report)
		if fault.KindOf(err) != fault.Internal || !strings.Contains(err.Error(), "at the disco") {
			t.Errorf("a panic came as %v", err)
		}
		w.m.start = func(_ context.Context, r step.Reporter) error {
			r.Report(step.Event{Step: "a", Phase: step.Started})
			panic("halfway")
		}
		if _, err = w.client.VMs().Start(deadline(t), "box", model.Start{}, report); err == nil {
			t.Error("a panic halfway came as success")
		}
	}
	if _, err := w.client.Daemon().Version(deadline(t)); err != nil {
		t.Errorf("after the panics: %v", err)
	}
}

// exchange sends a raw request and returns the status and the body.
func exchange(t *testing.T, w *world, text string) (int, string) {
	t.Helper()
	conn, err := net.Dial("unix", w.client.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, strings.ReplaceAll(text, "\n", "\r\n")); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
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

func TestRefusals(t *testing.T) {
	t.Parallel()
	w := serve(t)
	post := func(path, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\nHost: banger\nContent-Type: application/json\nContent-Length: %d\n\n%s", path, len(body), body)
	}
	for _, c := range []struct {
		name    string
		request string
		status  int
		says    string
	}{
		{"a web page", "GET /v1/version HTTP/1.1\nHost: banger\nOrigin: http://banger\n\n", 403, "web pages"},
		{"a foreign host", "GET /v1/version HTTP/1.1\nHost: localhost\n\n", 403, "localhost"},
		{"no host", "GET /v1/version HTTP/1.0\n\n", 403, "host"},
		{"another generation", "GET /v1/vms HTTP/1.1\nHost: banger\nBanger-Api: 99\n\n", 422, "banger daemon restart"},
		{"a generation whose exec has no event", "GET /v1/vms HTTP/1.1\nHost: banger\nBanger-Api: 2\n\n", 422, "banger daemon restart"},
		{"version for any generation", "GET /v1/version HTTP/1.1\nHost: banger\nBanger-Api: 99\n\n", 200, "test"},
		{"no such path", "GET /v2 HTTP/1.1\nHost: banger\n\n", 404, "/v2"},
		{"no such method", "PUT /v1/vms HTTP/1.1\nHost: banger\nContent-Length: 0\n\n", 404, "PUT /v1/vms"},
		{"an unknown field", post("/v1/vms", `{"memroy":"1G"}`), 400, "memroy"},
		{"a wrong type", post("/v1/vms", `{"vcpus":"two"}`), 400, "vcpus"},
		{"a bad size", post("/v1/vms", `{"memory":"lots"}`), 400, "lots"},
		{"no JSON", post("/v1/vms", `name=x`), 400, "invalid character"},
		{"two values", post("/v1/vms", `{} {}`), 400, "more after"},
		{"a form", "POST /v1/vms HTTP/1.1\nHost: banger\nContent-Type: text/plain\nContent-Length: 2\n\n{}", 400, "application/json"},
		{"a body that is too large", post("/v1/vms", `{"name":"`+strings.Repeat("x", maxBody)+`"}`), 400, "larger"},
		{"an unknown parameter", "DELETE /v1/vms/box?fource=1 HTTP/1.1\nHost: banger\n\n", 400, "fource"},
		{"a parameter twice", "DELETE /v1/vms/box?force=1&force=0 HTTP/1.1\nHost: banger\n\n", 400, "2 times"},
		{"a flag that is none", "DELETE /v1/vms/box?force=yes HTTP/1.1\nHost: banger\n\n", 400, "yes"},
		{"a bad signal", post("/v1/vms/box/kill", `{"signal":"FROWN"}`), 400, "FROWN"},
		{"a negative timeout", post("/v1/vms/box/stop", `{"timeout":-1}`), 400, "timeout"},
		{"no reference", post("/v1/images/pull", `{}`), 400, "ref"},
		{"a file name that is none", "POST /v1/images/import?file=a%0Ab HTTP/1.1\nHost: banger\nContent-Length: 0\n\n", 400, "file"},
		{"a relative guest path", "GET /v1/vms/box/files?path=x HTTP/1.1\nHost: banger\n\n", 400, "absolute"},
		{"a log that is none", "GET /v1/vms/box/logs?source=ship HTTP/1.1\nHost: banger\n\n", 400, "ship"},
		{"a stream without upgrade", "POST /v1/vms/box/exec HTTP/1.1\nHost: banger\nContent-Length: 0\n\n", 400, "banger-stream"},
		{"a port that is none", "POST /v1/vms/box/dial?port=70000 HTTP/1.1\nHost: banger\nContent-Length: 0\n\n", 400, "70000"},
		{"no port", "POST /v1/vms/box/dial HTTP/1.1\nHost: banger\nContent-Length: 0\n\n", 400, "port"},
		{"headers that are too large", "GET /v1/version HTTP/1.1\nHost: banger\nX: " + strings.Repeat("x", 32<<10) + "\n\n", 431, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, body := exchange(t, w, c.request)
			if status != c.status || !strings.Contains(body, c.says) {
				t.Errorf("got %d %s; want %d and %q", status, body, c.status, c.says)
			}
		})
	}
}

func TestParseSignal(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{"": 9, "KILL": 9, "sigterm": 15, "SIGINT": 2, "15": 15, "64": 64, "0": -1, "65": -1, "-9": -1, "SIG": -1, "x": -1} {
		got, err := parseSignal(text)
		if (err != nil) != (want < 0) || err == nil && int(got) != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}
