package cli

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"banger/internal/api"
	"banger/internal/api/server"
	"banger/internal/api/session"
	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/home"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/step"
)

// fakeDaemon is the real API server on a real socket. Its VMs are records only, and its guest is
// this host.
type fakeDaemon struct {
	layout paths.Layout
	server *server.Server

	mu      sync.Mutex
	vms     []model.VM
	deleted []string
}

// startFake serves a fake daemon for a new BANGER_HOME until the test ends.
func startFake(t testing.TB) (dir string, d *fakeDaemon) {
	t.Helper()
	dir, err := os.MkdirTemp("", "b")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d = &fakeDaemon{layout: paths.At(dir), vms: fakeVMs(time.Now())}
	discard := slog.New(slog.DiscardHandler)
	d.server, err = server.New(server.Config{
		Manager: fakeManager{d}, Library: fakeLibrary{fakeManager{d}}, Templates: fakeTemplatePool{fakeManager{d}}, Images: fakeImages{&atomic.Value{}}, Kernels: fakeKernels{}, Sessions: session.NewSet(), Layout: d.layout,
		Version: api.Version{Version: "v1.2.3", API: api.Generation},
		Status: func(context.Context) api.Status {
			return api.Status{PID: os.Getpid(), Started: time.Now().Add(-time.Hour), Driver: "qemu", Accel: "tcg",
				AccelWhy: "the CPU flags hold neither vmx nor svm", Socket: "SOCKET", State: "STATE", Log: "LOG", RSS: 20 * model.MiB,
				Recommendations: []api.Recommendation{{Kind: "cats per dog, at most", Value: 3, Reason: "they fight"}}}
		},
		Usage:    func(context.Context) (model.DiskUsage, error) { return fakeUsage(), nil },
		Shutdown: func() {}, Log: discard,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(d.layout.DaemonLog()), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.layout.DaemonLog(), []byte("one\ntwo\nthree\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := server.Listen(d.layout.Socket(), func() error { return home.PrivateDir(d.layout.Runtime) }, discard)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- d.server.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := d.server.Shutdown(ctx, time.Second); err != nil {
			t.Errorf("ending the fake daemon: %v", err)
		}
		<-served
		os.RemoveAll(d.layout.Runtime)
	})
	return dir, d
}

// gone are the names of the VMs that were deleted.
func (d *fakeDaemon) gone() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.deleted)
}

// fakeVMs returns a running VM, a stopped one, and one that failed and whose image's name holds
// control characters.
func fakeVMs(now time.Time) []model.VM {
	ago := func(d time.Duration) *time.Time { t := now.Add(-d); return &t }
	ms := time.Millisecond
	return []model.VM{{
		ID: "0123456789abcdef", State: model.Running, Created: *ago(50 * time.Hour), Started: ago(2*time.Hour + 10*time.Minute + 30*time.Second),
		Spec: model.Spec{Name: "web", Image: "docker.io/library/nginx:1.27", ImageID: strings.Repeat("ab", 32), Kernel: "debian", KernelID: strings.Repeat("cd", 32),
			VCPUs: 2, Memory: model.GiB, DiskSize: 10 * model.GiB, WorkDiskSize: 8 * model.GiB, Net: model.NetUser, Env: map[string]string{"A": "1", "B": "2"},
			Labels: map[string]string{"team": "blue"}},
		Runtime: &model.Runtime{Driver: "qemu", Accel: "tcg", PID: 4242, Protection: model.Protection{
			{Name: model.LayerFiles, On: true}, {Name: model.LayerCalls, On: true}, {Name: model.LayerMemory, Note: "QEMU is old"},
		}},
		Network: &model.Network{Mode: model.NetUser, Addr: "10.0.2.15"},
		Pending: []string{"memory"},
		Boot: &model.Boot{Duration: 2310 * ms, Cold: true,
			Steps: []model.Span{{Name: "disks", Duration: 8 * ms}, {Name: "machine", Offset: 8 * ms, Duration: 52 * ms},
				{Name: "agent", Offset: 60 * ms, Duration: 1840 * ms}, {Name: "assume", Offset: 1900 * ms, Duration: 410 * ms}},
			Guest: []model.Span{{Name: "kernel", Offset: 100 * ms, Duration: 1500 * ms}, {Name: "modules", Offset: 1600 * ms, Duration: 200 * ms}}},
	}, {
		ID: "1123456789abcdef", State: model.Stopped, Created: *ago(time.Hour), Stopped: ago(30 * time.Minute),
		Spec: model.Spec{Name: "dev", Image: "debian:bookworm", VCPUs: 1, Memory: 512 * model.MiB, DiskSize: 10 * model.GiB, Net: model.NetNone},
	}, {
		ID: "2123456789abcdef", State: model.Failed, Created: *ago(time.Minute),
		Spec:      model.Spec{Name: "bad", Image: "evil\x1b[2J\u202eimage", VCPUs: 1, Memory: 512 * model.MiB, DiskSize: 10 * model.GiB, Net: model.NetUser},
		LastError: &model.Failure{Time: *ago(time.Minute), Step: "agent", Msg: "no answer\nhint: \x1b]0;run this\a", Hint: "look at the console", Log: "/log"},
	}}
}

// fakeLibrary and fakeTemplatePool answer for the stored snapshots and the templates.
type (
	fakeLibrary      struct{ fakeManager }
	fakeTemplatePool struct{ fakeManager }
)

// fakeManager answers for the VMs.
type fakeManager struct{ d *fakeDaemon }

func (m fakeManager) index(ref string) (int, error) {
	for i, v := range m.d.vms {
		if v.Spec.Name == ref || strings.HasPrefix(v.ID, ref) {
			return i, nil
		}
	}
	return 0, fault.New(fault.NotFound, "no VM named %q", ref).WithHint("`banger vm list` shows the VMs there are")
}

func (m fakeManager) List() []model.VM {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	return slices.Clone(m.d.vms)
}

func (m fakeManager) Get(ref string) (model.VM, error) {
	return m.update(ref, func(*model.VM) error { return nil })
}

func (m fakeManager) update(ref string, f func(*model.VM) error) (model.VM, error) {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	i, err := m.index(ref)
	if err != nil {
		return model.VM{}, err
	}
	err = f(&m.d.vms[i])
	return m.d.vms[i], err
}

func (m fakeManager) Create(ctx context.Context, req model.Create, report step.Reporter) (model.VM, error) {
	if req.Image == "missing" {
		return model.VM{}, fault.New(fault.NotFound, "pulling missing: no such image").WithHint("Check its name.")
	}
	if req.Image == "slow" { // for tests that interrupt a start: nothing else ends it
		report.Report(step.Event{Step: "image", Phase: step.Started, Detail: "slow"})
		<-ctx.Done()
		return model.VM{}, context.Cause(ctx)
	}
	if req.Name == "" {
		req.Name = "quiet-otter"
	}
	v := model.VM{ID: model.NewID(), State: model.Stopped, Created: time.Now(), Spec: model.Spec{
		Name: req.Name, Image: req.Image, VCPUs: cmp.Or(*req.VCPUs, 2), Memory: req.Memory, Remove: req.Remove, Env: req.Env, Workdir: req.Workdir,
		IdleSuspend: req.IdleSuspend}}
	if req.Image == "ill" { // for tests of a failed start
		v.State = model.Failed
	}
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	if _, err := m.index(v.Spec.Name); err == nil {
		return model.VM{}, fault.New(fault.Exists, "there is a VM named %q", v.Spec.Name).WithHint("Choose another name.")
	}
	m.d.vms = append(m.d.vms, v)
	return v, nil
}

func (m fakeManager) Launch(ctx context.Context, req model.Create, made func(model.VM), report step.Reporter) (model.VM, error) {
	v, err := m.Create(ctx, req, report)
	if err != nil {
		return model.VM{}, err
	}
	made(v)
	return m.Start(ctx, v.ID, model.Start{Cold: req.Cold}, report)
}

func (m fakeManager) Start(_ context.Context, ref string, how model.Start, report step.Reporter) (model.VM, error) {
	report.Track("machine", "")(nil)
	return m.update(ref, func(v *model.VM) error {
		if v.State == model.Running {
			report.Report(step.Event{Step: "start", Phase: step.Skipped, Detail: "running as it is"})
		}
		if v.State == model.Failed {
			return &step.Error{Step: "agent", Err: fault.New(fault.Unavailable, "the guest does not answer\x1b[31m")}
		}
		now := time.Now()
		v.State, v.Started, v.Boot = model.Running, &now, &model.Boot{Cold: how.Cold}
		return nil
	})
}

func (m fakeManager) Stop(_ context.Context, ref string, _ *time.Duration, _ step.Reporter) (model.VM, error) {
	return m.update(ref, func(v *model.VM) error { v.State = model.Stopped; return nil })
}

func (m fakeManager) Kill(_ context.Context, ref string, _ syscall.Signal) (model.VM, error) {
	return m.update(ref, func(v *model.VM) error {
		if v.State != model.Running {
			return fault.New(fault.WrongState, "%s is %s", v.Spec.Name, v.State).WithHint("Only a running VM has something to kill.")
		}
		v.State = model.Stopped
		return nil
	})
}

func (m fakeManager) Restart(ctx context.Context, ref string, _ *time.Duration, report step.Reporter) (model.VM, error) {
	return m.Start(ctx, ref, model.Start{}, report)
}

func (m fakeManager) Delete(_ context.Context, ref string, force bool, _ step.Reporter) error {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	i, err := m.index(ref)
	if err != nil {
		return err
	}
	v := m.d.vms[i]
	if v.State == model.Running && !force {
		return fault.New(fault.WrongState, "%s is running", v.Spec.Name).WithHint("Stop it first, or delete it with --force.")
	}
	m.d.vms = slices.Delete(m.d.vms, i, i+1)
	m.d.deleted = append(m.d.deleted, v.Spec.Name)
	return nil
}

func (m fakeManager) Rename(_ context.Context, ref, name string) (model.VM, error) {
	return m.update(ref, func(v *model.VM) error { v.Spec.Name = name; return nil })
}

func (m fakeManager) Set(_ context.Context, ref string, change model.Change) (model.Changed, error) {
	v, err := m.update(ref, func(v *model.VM) error {
		if change.IdleSuspend != nil {
			v.Spec.IdleSuspend = *change.IdleSuspend
		}
		return nil
	})
	out := model.Changed{VM: v}
	if change.DiskSize != nil {
		out.Applied = append(out.Applied, "disk_size")
	}
	if change.IdleSuspend != nil {
		out.Applied = append(out.Applied, "idle_suspend")
	}
	if change.Memory != nil {
		out.Pending = append(out.Pending, "memory")
	}
	return out, err
}

func (m fakeManager) Prune(context.Context) (model.Pruned, error) {
	return model.Pruned{Removed: []string{"old-goat"}, Freed: 3 * model.MiB}, nil
}

func (m fakeManager) Stats(_ context.Context, ref string) (model.Stats, error) {
	v, err := m.Get(ref)
	return model.Stats{ID: v.ID, Name: v.Spec.Name, State: v.State, CPU: 12 * time.Second, Memory: 300 * model.MiB, Disk: 40 * model.MiB,
		Guest: &proto.Stats{MemTotal: 1 << 30, MemUsed: 256 << 20, Load: [3]float64{0.25}, Processes: 12, NetRxBytes: 2048, NetTxBytes: 512}}, err
}

func (m fakeManager) Agent(_ context.Context, ref string) (machine.Agent, error) {
	v, err := m.Get(ref)
	if err == nil && v.State != model.Running {
		hint := "Start it: banger vm start %s"
		if v.State == model.Paused || v.State == model.Suspended {
			hint = "Let it go on: banger vm resume %s"
		}
		err = fault.New(fault.WrongState, "%s is %s", v.Spec.Name, v.State).WithHint(hint, v.Spec.Name)
	}
	return fakeAgent{v.Spec}, err
}

func (m fakeManager) References(f func(images, kernels map[string][]string) error) error {
	return f(nil, nil)
}

// fakeImages are one image. mode is that of its templates.
type fakeImages struct{ mode *atomic.Value }

func (f fakeImages) Describe(context.Context, string) (model.Image, error) {
	i, mode := fakeImage(), f.mode.Load()
	i.Template = &model.ImageTemplate{Mode: model.TemplateAuto, Shared: []string{"/etc/app/key"}, Cut: true}
	if mode != nil {
		i.Template = &model.ImageTemplate{Mode: mode.(model.TemplateMode)}
	}
	return i, nil
}

func (f fakeImages) Change(ctx context.Context, ref string, change model.ImageChange) (model.Image, error) {
	if change.Template == "maybe" {
		return model.Image{}, fault.New(fault.Invalid, "%q is not auto, on or off", change.Template)
	}
	f.mode.Store(change.Template)
	return f.Describe(ctx, ref)
}

func fakeImage() model.Image {
	return model.Image{ID: strings.Repeat("ab", 32), Names: []string{"docker.io/library/nginx:1.27"}, Source: "registry", Digest: "sha256:1234",
		Size: 180 * model.MiB, Created: time.Now().Add(-26 * time.Hour),
		Config: model.ImageConfig{Entrypoint: []string{"echo", "an image"}, Cmd: []string{"says"}, Env: []string{"PATH=/bin", "TOKEN=planted-image-env"}}}
}

func (fakeImages) List() ([]model.Image, error)          { return []model.Image{fakeImage()}, nil }
func (f fakeImages) ByID(id string) (model.Image, error) { return f.Get(id) }

func (fakeImages) Get(string) (model.Image, error) { return fakeImage(), nil }
func (fakeImages) Tag(_ context.Context, ref, name string) (model.Image, error) {
	i := fakeImage()
	i.Notices = []model.Notice{model.NameMoved("image", name, i.ID, strings.Repeat("0", 64))}
	return i, nil
}
func (fakeImages) Delete(context.Context, string, func(string) []string) error { return nil }
func (fakeImages) Prune(context.Context, func(string) []string) (model.Pruned, error) {
	return model.Pruned{}, nil
}
func (fakeImages) Pull(_ context.Context, req api.ImagePull, _ step.Reporter) (model.Image, error) {
	if req.Ref == "gone" {
		return model.Image{}, fault.New(fault.NotFound, "the registry knows no %s", req.Ref)
	}
	return fakeImage(), nil
}
func (fakeImages) Import(_ context.Context, path string, req api.ImageImport, _ step.Reporter) (model.Image, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return model.Image{}, err
	}
	i := fakeImage()
	i.Names = []string{fmt.Sprintf("imported/%s", filepath.Base(req.File))}
	if len(data) < 100 {
		i.Names[0] += " " + strings.TrimSpace(string(data))
	}
	if req.Directory {
		i.Names[0] += " " + tarNames(data)
	}
	return i, nil
}

// tarNames lists what is in a tar.
func tarNames(data []byte) string {
	var names []string
	tr := tar.NewReader(bytes.NewReader(data))
	for {
		hdr, err := tr.Next()
		if err != nil {
			return strings.Join(names, " ")
		}
		names = append(names, hdr.Name)
	}
}

type fakeKernels struct{}

func fakeKernel() model.Kernel {
	return model.Kernel{ID: strings.Repeat("cd", 32), Names: []string{"debian"}, Version: "6.1.0-43-cloud-amd64", Source: "linux-image-cloud-amd64",
		Arch: "amd64", Size: 60 * model.MiB, Vmlinux: "/vmlinux", Created: time.Now().Add(-26 * time.Hour)}
}

func (fakeKernels) List() ([]model.Kernel, error)          { return []model.Kernel{fakeKernel()}, nil }
func (fakeKernels) Get(string) (model.Kernel, error)       { return fakeKernel(), nil }
func (f fakeKernels) ByID(id string) (model.Kernel, error) { return f.Get(id) }
func (fakeKernels) Tag(context.Context, string, string) (model.Kernel, error) {
	return fakeKernel(), nil
}
func (fakeKernels) Delete(context.Context, string, func(string) []string) error { return nil }
func (fakeKernels) Prune(context.Context, func(string) []string) (model.Pruned, error) {
	return model.Pruned{}, nil
}
func (fakeKernels) Pull(context.Context, api.KernelPull, step.Reporter) (model.Kernel, error) {
	return fakeKernel(), nil
}
func (fakeKernels) Import(_ context.Context, f server.KernelFiles, req api.KernelImport, _ step.Reporter) (model.Kernel, error) {
	k := fakeKernel()
	data, err := os.ReadFile(f.Kernel)
	k.Names = []string{fmt.Sprintf("%s holds %q", filepath.Base(req.File), data)}
	if f.Config != "" {
		k.Names[0] += " with a config"
	}
	if f.Modules != "" {
		files, globErr := filepath.Glob(f.Modules + "/*")
		k.Names[0] += fmt.Sprintf(" with %d files of %s", len(files), filepath.Base(f.Modules))
		err = errors.Join(err, globErr)
	}
	return k, err
}
