package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/initramfs"
	"banger/internal/kernel"
	"banger/internal/model"
	"banger/internal/paths"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func testLayout(t *testing.T) paths.Layout {
	t.Helper()
	dir, err := os.MkdirTemp("", "b")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return paths.At(dir)
}

// testReady returns a Ready and the text that is read from its other end.
func testReady(t *testing.T) (*Ready, <-chan string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 1)
	go func() {
		defer r.Close()
		text, _ := io.ReadAll(r)
		said <- string(text)
	}()
	return &Ready{f: w}, said
}

func noEnv(string) (string, bool) { return "", false }

// TestRun runs a daemon in this process. Everything that it began has ended when it returns.
func TestRun(t *testing.T) {
	for name, end := range map[string]func(c *api.Client, stop func()){
		"by its context": func(_ *api.Client, stop func()) { stop() },
		"by a request":   func(c *api.Client, _ func()) { endByRequest(t, c) },
	} {
		t.Run(name, func(t *testing.T) {
			layout := testLayout(t)
			ready, said := testReady(t)
			ctx, stop := context.WithCancel(testContext(t))
			defer stop()
			ended := make(chan error, 1)
			go func() { ended <- Run(ctx, Options{Layout: layout, LookupEnv: noEnv, Ready: ready}) }()
			if got := <-said; got != api.ReadyLine+"\n" {
				t.Fatalf("the daemon said %q; %v", got, <-ended)
			}
			c := api.Dial(layout.Socket())
			defer c.Close()
			if images, err := c.Images().List(ctx); err != nil || len(images) != 0 {
				t.Errorf("images %v, %v", images, err)
			}
			if kernels, err := c.Kernels().List(ctx); err != nil || len(kernels) != 0 {
				t.Errorf("kernels %v, %v", kernels, err)
			}
			end(c, stop)
			if err := <-ended; err != nil {
				t.Errorf("the daemon ended with %v", err)
			}
			log, err := os.ReadFile(layout.DaemonLog())
			if err != nil || !strings.Contains(string(log), "bangerd is ready") {
				t.Errorf("log %q, %v", log, err)
			}
		})
	}
}

// endByRequest is Client.Shutdown, but does not wait for the daemon's process, which is this one.
func endByRequest(t *testing.T, c *api.Client) {
	ctx, cancel := context.WithTimeout(testContext(t), time.Second)
	defer cancel()
	if err := c.Daemon().Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for the end of a process that lives: %v", err)
	}
}

func TestReadyReportsErrors(t *testing.T) {
	layout := testLayout(t)
	if err := os.WriteFile(layout.State, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ready, said := testReady(t)
	err := Run(testContext(t), Options{Layout: layout, LookupEnv: noEnv, Ready: ready})
	var p api.Problem
	if jsonErr := json.Unmarshal([]byte(<-said), &p); jsonErr != nil || err == nil || p.Detail != err.Error() {
		t.Errorf("said %+v, %v; the error is %v", p, jsonErr, err)
	}
	var nobody *Ready
	if err := nobody.Report(nil); err != nil {
		t.Error(err)
	}
	for _, fd := range []int{-1, 0, 2, 9999} {
		if _, err := OpenReady(fd); err == nil {
			t.Errorf("file descriptor %d was taken", fd)
		}
	}
}

func TestProxyCommand(t *testing.T) {
	d := &daemon{Options: Options{LookupEnv: noEnv}}
	if got := d.proxyCommand(); !strings.HasSuffix(got, "banger' vm proxy %h") || strings.Contains(got, "BANGER_HOME") {
		t.Errorf("without a home: %s", got)
	}
	d.LookupEnv = func(string) (string, bool) { return "/my home", true }
	if got := d.proxyCommand(); !strings.HasPrefix(got, "env BANGER_HOME='/my home' ") {
		t.Errorf("with a home: %s", got)
	}
}

func TestResidentMemory(t *testing.T) {
	if rss := residentMemory(); rss < model.MiB || rss > model.GiB {
		t.Errorf("%v", rss)
	}
}

func TestKernelsThatAreNotThere(t *testing.T) {
	store, err := kernel.Open(filepath.Join(testLayout(t).Cache, "kernels"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	k := kernels{Store: store, initramfs: initramfs.New(t.TempDir())}
	if _, err := k.Ensure(testContext(t), "no-such-kernel", nil); fault.KindOf(err) != fault.NotFound {
		t.Errorf("ensuring: %v", err)
	}
	if _, err := k.Pull(testContext(t), api.KernelPull{Name: "no-such-kernel"}, nil); fault.KindOf(err) != fault.Invalid {
		t.Errorf("pulling: %v", err)
	}
	if p, err := k.Prune(testContext(t), func(string) []string { return nil }); err != nil || len(p.Removed) != 0 {
		t.Errorf("pruning nothing: %+v, %v", p, err)
	}
}

func TestLabel(t *testing.T) {
	var got bytes.Buffer
	for _, c := range []struct {
		names []string
		id    string
	}{{[]string{"debian", "other"}, "0123456789abcdef"}, {nil, "0123456789abcdef"}, {nil, "01"}} {
		got.WriteString(label(c.names, c.id) + " ")
	}
	if got.String() != "debian 0123456789ab 01 " {
		t.Error(got.String())
	}
}
