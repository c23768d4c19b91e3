package server

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/api"
	"banger/internal/api/session"
	"banger/internal/fault"
	"banger/internal/home"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/step"
)

// manager is a Manager whose methods do what a test says. The others answer with the only VM.
type manager struct {
	mu    sync.Mutex
	calls []string
	vms   map[string]model.VM // by id

	agent   *agent
	other   machine.Agent // instead of agent, if set
	start   func(ctx context.Context, report step.Reporter) error
	remove  func(ctx context.Context) error
	create  func(ctx context.Context, req model.Create, report step.Reporter) error
	deleted chan string // gets the id of each deleted VM
}

const testID = "0123456789abcdef"

// library and templates are the manager's stored snapshots and templates.
type (
	library   struct{ *manager }
	templates struct{ *manager }
)

func newManager() *manager {
	v := model.VM{ID: testID, Spec: model.Spec{Name: "box", ImageID: "img"}, State: model.Running}
	return &manager{vms: map[string]model.VM{testID: v}, agent: newAgent(), deleted: make(chan string, 8)}
}

func (m *manager) note(call string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, call)
}

func (m *manager) noted() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.calls...)
}

func (m *manager) put(v model.VM) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.vms[v.ID] = v
}

func (m *manager) Create(ctx context.Context, req model.Create, report step.Reporter) (model.VM, error) {
	m.note("create " + req.Name)
	if m.create != nil {
		if err := m.create(ctx, req, report); err != nil {
			return model.VM{}, err
		}
	}
	v := model.VM{ID: "fedcba9876543210", Spec: model.Spec{Name: req.Name, ImageID: "img", Remove: req.Remove, Memory: req.Memory}, State: model.Stopped}
	m.put(v)
	return v, nil
}

func (m *manager) Launch(ctx context.Context, req model.Create, made func(model.VM), report step.Reporter) (model.VM, error) {
	v, err := m.Create(ctx, req, report)
	if err != nil {
		return model.VM{}, err
	}
	made(v)
	started, err := m.Start(ctx, v.ID, model.Start{Cold: req.Cold}, report)
	if err != nil {
		return v, err
	}
	return started, nil
}

func (m *manager) Get(ref string) (model.VM, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, v := range m.vms {
		if v.ID == ref || v.Spec.Name == ref {
			return v, nil
		}
	}
	return model.VM{}, fault.New(fault.NotFound, "no VM named %q", ref).WithHint("look again")
}

func (m *manager) List() []model.VM {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []model.VM
	for _, v := range m.vms {
		all = append(all, v)
	}
	return all
}

func (m *manager) Start(ctx context.Context, ref string, how model.Start, report step.Reporter) (model.VM, error) {
	if how.Cold {
		m.note("start cold " + ref)
	} else {
		m.note("start " + ref)
	}
	if m.start != nil {
		if err := m.start(ctx, report); err != nil {
			return model.VM{}, err
		}
	}
	v, err := m.Get(ref)
	v.State = model.Running
	return v, err
}

func (m *manager) Stop(_ context.Context, ref string, timeout *time.Duration, _ step.Reporter) (model.VM, error) {
	if timeout != nil {
		ref += " " + timeout.String()
	}
	m.note("stop " + ref)
	return m.Get(testID)
}

func (m *manager) Kill(_ context.Context, ref string, sig syscall.Signal) (model.VM, error) {
	m.note("kill " + ref + " " + unix.SignalName(sig))
	return m.Get(ref)
}

func (m *manager) Restart(_ context.Context, ref string, _ *time.Duration, _ step.Reporter) (model.VM, error) {
	m.note("restart " + ref)
	return m.Get(ref)
}

func (m *manager) Delete(ctx context.Context, ref string, force bool, _ step.Reporter) error {
	if force {
		m.note("delete by force " + ref)
	} else {
		m.note("delete " + ref)
	}
	if m.remove != nil {
		if err := m.remove(ctx); err != nil {
			return err
		}
	}
	v, err := m.Get(ref)
	if err != nil {
		return err
	}
	m.mu.Lock()
	delete(m.vms, v.ID)
	m.mu.Unlock()
	m.deleted <- v.ID
	return nil
}

func (m *manager) Rename(_ context.Context, ref, name string) (model.VM, error) {
	m.note("rename " + ref + " " + name)
	return m.Get(ref)
}

func (m *manager) Set(_ context.Context, ref string, change model.Change) (model.Changed, error) {
	m.note("set " + ref + " " + change.Memory.String())
	v, err := m.Get(ref)
	return model.Changed{VM: v, Pending: []string{"memory"}}, err
}

func (m *manager) Prune(context.Context) (model.Pruned, error) { return model.Pruned{}, nil }

func (m *manager) Stats(_ context.Context, ref string) (model.Stats, error) {
	v, err := m.Get(ref)
	return model.Stats{ID: v.ID, Name: v.Spec.Name, CPU: time.Second}, err
}

func (m *manager) Agent(_ context.Context, ref string) (machine.Agent, error) {
	v, err := m.Get(ref)
	if err != nil {
		return nil, err
	}
	if m.agent == nil {
		return nil, fault.New(fault.WrongState, "VM %s is not running", v.Spec.Name).WithHint("start it")
	}
	if m.other != nil {
		return m.other, nil
	}
	return m.agent, nil
}

func (m *manager) References(f func(images, kernels map[string][]string) error) error {
	return f(map[string][]string{"img": {"box"}, "lost": {model.LostUser("a", "/x/lost/it's"), model.LostUser("b", "/x/lost/2")}, "kept": {"snapshot ims"}, "both": {"box", "web", "snapshot ims"}}, map[string][]string{"used": {"box"}})
}

type images struct{ Images }

func (i images) Describe(_ context.Context, ref string) (model.Image, error) { return i.Get(ref) }

func (i images) Change(_ context.Context, ref string, change model.ImageChange) (model.Image, error) {
	return model.Image{ID: ref, Template: &model.ImageTemplate{Mode: change.Template}}, nil
}

func (i images) ByID(id string) (model.Image, error) { return i.Get(id) }

func (images) Get(ref string) (model.Image, error) {
	if ref == "docker.io/library/alpine:3" {
		return model.Image{ID: "other", Names: []string{ref}}, nil
	}
	return model.Image{ID: ref, Config: model.ImageConfig{Entrypoint: []string{"/entry"}, Cmd: []string{"default"}}}, nil
}

func (images) Tag(_ context.Context, ref, name string) (model.Image, error) {
	return model.Image{ID: ref, Names: []string{name}}, nil
}

func (images) List() ([]model.Image, error) { return nil, nil }

func (images) Delete(_ context.Context, ref string, inUse func(string) []string) error {
	if users := inUse(ref); len(users) > 0 {
		return fault.New(fault.WrongState, "image %s is used by %s", ref, strings.Join(users, ", ")).WithHint("Delete what uses it first.")
	}
	return nil
}

type kernels struct{ Kernels }

func (kernels) ByID(string) (model.Kernel, error) {
	return model.Kernel{}, fault.New(fault.NotFound, "no such kernel")
}

func (kernels) Tag(_ context.Context, ref, name string) (model.Kernel, error) {
	return model.Kernel{ID: ref, Names: []string{name}}, nil
}

// world is a server under test and a client of it.
type world struct {
	*Server
	m        *manager
	client   *api.Client
	log      *bytes.Buffer
	shutdown chan struct{}
	usage    atomic.Pointer[model.DiskUsage]
	logs     *locked

	countMu sync.Mutex
	counts  map[string]int
}

// logged returns the log so far.
func (w *world) logged() string {
	w.logs.mu.Lock()
	defer w.logs.mu.Unlock()
	return w.log.String()
}

// counted returns how often a request was counted: "METHOD ROUTE CODE".
func (w *world) counted(key string) int {
	w.countMu.Lock()
	defer w.countMu.Unlock()
	return w.counts[key]
}

// serve starts a server on a real socket; it is shut down at the end of the test. The test may
// change what the server is built from.
func serve(t *testing.T, changes ...func(*Config)) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "b")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{m: newManager(), log: &bytes.Buffer{}, shutdown: make(chan struct{}, 1), counts: map[string]int{}}
	w.logs = &locked{w: w.log}
	log := slog.New(slog.NewTextHandler(w.logs, nil))
	cfg := Config{
		Manager: w.m, Library: library{w.m}, Templates: templates{w.m}, Images: images{}, Kernels: kernels{},
		Sessions: session.NewSet(), Layout: paths.At(dir),
		Version:  api.Version{Version: "test", API: api.Generation},
		Status:   func(context.Context) api.Status { return api.Status{PID: os.Getpid()} },
		Usage:    func(context.Context) (model.DiskUsage, error) { return *w.usage.Load(), nil },
		Shutdown: func() { w.shutdown <- struct{}{} },
		Count: func(route, method string, code int) {
			w.countMu.Lock()
			defer w.countMu.Unlock()
			w.counts[fmt.Sprintf("%s %s %d", method, route, code)]++
		},
		Log: log,
	}
	for _, change := range changes {
		change(&cfg)
	}
	w.Server, err = New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s", "sock")
	l, err := Listen(socket, func() error { return home.PrivateDir(filepath.Dir(socket)) }, log)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- w.Serve(l) }()
	w.client = api.Dial(socket)
	t.Cleanup(func() {
		w.client.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := w.Server.Shutdown(ctx, time.Second); err != nil {
			t.Errorf("shutting down: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serving: %v", err)
		}
		if w.m.agent != nil {
			w.m.agent.wg.Wait()
		}
	})
	return w
}

type locked struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// deadline is for what should happen at once.
func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// await receives, or fails the test.
func await[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("%s did not happen", what)
		panic("unreachable")
	}
}

// stuck is a start that ends only when it is cancelled, and returns the cause.
func stuck(begun, calledOff chan struct{}) func(context.Context, step.Reporter) error {
	return func(ctx context.Context, _ step.Reporter) error {
		close(begun)
		<-ctx.Done()
		close(calledOff)
		return context.Cause(ctx)
	}
}
