package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// halt changes a VM's state if it is in one of the states from. If the VM is in that state already,
// halt reports a skipped step.
func (m fakeManager) halt(ref string, to model.State, report step.Reporter, from ...model.State) (model.VM, error) {
	return m.update(ref, func(v *model.VM) error {
		switch {
		case v.State == to:
			report.Report(step.Event{Step: string(to), Phase: step.Skipped, Detail: "already " + string(to)})
		case !slices.Contains(from, v.State):
			return fault.New(fault.WrongState, "VM %s is %s", v.Spec.Name, v.State)
		}
		v.State = to
		return nil
	})
}

func (m fakeManager) Pause(_ context.Context, ref string, report step.Reporter) (model.VM, error) {
	return m.halt(ref, model.Paused, report, model.Running)
}

func (m fakeManager) Suspend(_ context.Context, ref string, report step.Reporter) (model.VM, error) {
	return m.halt(ref, model.Suspended, report, model.Running, model.Paused)
}

func (m fakeManager) Resume(_ context.Context, ref string, report step.Reporter) (model.VM, error) {
	return m.halt(ref, model.Running, report, model.Paused, model.Suspended)
}

// Fork makes children as records. A child whose name is taken fails.
func (m fakeManager) Fork(_ context.Context, ref string, req model.Fork, report step.Reporter) (model.Forked, error) {
	parent, err := m.Get(ref)
	if err != nil {
		return model.Forked{}, err
	}
	if parent.State != model.Running && parent.State != model.Paused {
		return model.Forked{}, fault.New(fault.WrongState, "VM %s is not running: it is %s", parent.Spec.Name, parent.State).WithHint("Start it.")
	}
	report.Track("capture", parent.Spec.Name)(nil)
	from := model.Origin{Kind: model.FromFork, Of: parent.ID, Name: parent.Spec.Name}
	forked := m.children(parent, req, from, model.Parent{VM: parent.ID, Name: parent.Spec.Name}, report)
	forked.Pause = 9 * time.Millisecond
	return forked, nil
}

func (m fakeManager) children(like model.VM, req model.Fork, from model.Origin, parent model.Parent, report step.Reporter) model.Forked {
	var forked model.Forked
	for i := range max(1, req.Count) {
		name := req.Name
		if req.Count > 1 {
			name = fmt.Sprintf("%s-%d", cmpOr(req.Name, like.Spec.Name), i+1)
		}
		child := model.Child{Name: cmpOr(name, "calm-crane")}
		v := like
		v.ID, v.Spec.Name, v.Spec.Remove, v.Parent = model.NewID(), child.Name, req.Remove, &parent
		if req.Labels != nil {
			v.Spec.Labels = req.Labels
		}
		v.Boot = &model.Boot{Duration: 210 * time.Millisecond, Origin: &from, Steps: []model.Span{
			{Name: "vmm", Duration: 60 * time.Millisecond}, {Name: "agent", Offset: 60 * time.Millisecond, Duration: 150 * time.Millisecond}}}
		e := step.Event{Step: "child", Phase: step.Done, Detail: child.Name}
		if _, err := m.Get(child.Name); err == nil {
			child.Kind, child.Error, child.Hint = string(fault.Exists), fmt.Sprintf("there is a VM named %q", child.Name), "Choose another name."
			e.Phase, e.Error = step.Failed, child.Error
		} else {
			child.VM = &v
			m.d.mu.Lock()
			m.d.vms = append(m.d.vms, v)
			m.d.mu.Unlock()
		}
		report.Report(e)
		forked.Children = append(forked.Children, child)
	}
	return forked
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// fakeTemplates are one for any image and one of an image.
func fakeTemplates() []model.Template {
	now := time.Now()
	t := model.Template{Kernel: "debian", KernelID: strings.Repeat("cd", 32), VCPUs: 2, Memory: model.GiB, Net: model.NetUser, Size: 90 * model.MiB,
		Created: now.Add(-26 * time.Hour)}
	universal, image := t, t
	universal.Key, universal.Kind, universal.LastUsed = "u"+strings.Repeat("0a", 12), model.TemplateUniversal, universal.Created
	image.Key, image.Kind, image.Image, image.ImageID = "i"+strings.Repeat("1b", 12), model.TemplateImage, "docker.io/library/nginx:1.27", strings.Repeat("ab", 32)
	image.LastUsed, image.Uses, image.Size = now.Add(-2*time.Hour-10*time.Minute-30*time.Second), 12, 240*model.MiB
	image.DiskSize, image.WorkDiskSize = 10*model.GiB, 8*model.GiB
	return []model.Template{image, universal}
}

func (m fakeTemplatePool) List(context.Context) ([]model.Template, error) {
	return fakeTemplates(), nil
}

func (m fakeTemplatePool) Get(_ context.Context, ref, _ string) (model.Template, error) {
	for _, t := range fakeTemplates() {
		if strings.HasPrefix(t.Key, ref) || t.Image == ref {
			return t, nil
		}
	}
	return model.Template{}, fault.New(fault.NotFound, "no template %q", ref).WithHint("`banger template list` shows the templates there are")
}

func (m fakeManager) BuildTemplate(_ context.Context, req model.Create, report step.Reporter) ([]model.Template, error) {
	if req.Image == "missing" {
		return nil, fault.New(fault.NotFound, "pulling missing: no such image").WithHint("Check its name.")
	}
	report.Track("template", "u0a")(nil)
	made := fakeTemplates()
	made[0].Image, made[0].VCPUs = req.Image, cmp.Or(*req.VCPUs, 2)
	return made, nil
}

func (m fakeTemplatePool) Delete(ctx context.Context, ref, imageID string) (model.Template, error) {
	return m.Get(ctx, ref, imageID)
}

func (m fakeTemplatePool) Prune(_ context.Context, stale bool) (model.Pruned, error) {
	all := fakeTemplates()
	if stale {
		return model.Pruned{}, nil
	}
	return model.Pruned{Removed: []string{all[0].Key, all[1].Key}, Freed: all[0].Size + all[1].Size}, nil
}

// fakeSnapshots returns a damaged snapshot, one of an existing VM, and one with disks only of a
// deleted VM.
func fakeSnapshots() []model.Snapshot {
	s := model.Snapshot{Image: "docker.io/library/nginx:1.27", Kernel: "debian", VCPUs: 2, Memory: model.GiB, Created: time.Now().Add(-26 * time.Hour)}
	full, disk := s, s
	full.ID, full.Name, full.VM, full.VMID, full.Kind = "a123456789abcdef", "night", "web", "0123456789abcdef", model.SnapshotFull
	full.Net, full.Sealed, full.Env, full.Disks = model.NetUser, true, 2, []model.SnapshotDrive{{Name: "system", Size: 8 * model.GiB}, {Name: "work", Size: 4 * model.GiB}}
	full.Driver, full.Size, full.Pause = "qemu", 120*model.MiB, 14*time.Millisecond
	disk.ID, disk.Name, disk.VM, disk.VMID, disk.Kind, disk.Size = "b123456789abcdef", "clean", "old", "c123456789abcdef", model.SnapshotDisk, 8*model.MiB
	bad := model.Snapshot{ID: "d123456789abcdef", Size: 4 * model.MiB, Damaged: "opening snapshot /s/d123456789abcdef: meta.json: wrong sum"}
	return []model.Snapshot{bad, full, disk}
}

func (m fakeLibrary) List(context.Context) ([]model.Snapshot, error) {
	return fakeSnapshots(), nil
}

func (m fakeLibrary) Get(_ context.Context, ref string) (model.Snapshot, error) {
	for _, s := range fakeSnapshots() {
		if s.Name == ref || strings.HasPrefix(s.ID, ref) {
			return s, nil
		}
	}
	return model.Snapshot{}, fault.New(fault.NotFound, "no snapshot %q", ref).WithHint("`banger snapshot list` shows the snapshots there are")
}

func (m fakeManager) CreateSnapshot(_ context.Context, ref, name string, report step.Reporter) (model.Snapshot, error) {
	v, err := m.Get(ref)
	if err != nil {
		return model.Snapshot{}, err
	}
	report.Track("capture", v.Spec.Name)(nil)
	s := fakeSnapshots()[1]
	s.Name, s.VM, s.VMID = cmpOr(name, "plucky-pika"), v.Spec.Name, v.ID
	return s, nil
}

func (m fakeLibrary) Delete(ctx context.Context, ref string) (model.Snapshot, error) {
	return m.Get(ctx, ref)
}

func (m fakeManager) RestoreSnapshot(ctx context.Context, ref string, req model.Restore, report step.Reporter) (model.Forked, error) {
	s, err := fakeLibrary{m}.Get(ctx, ref)
	if err != nil {
		return model.Forked{}, err
	}
	state := model.Running
	if req.DisksOnly || s.Kind == model.SnapshotDisk {
		state = model.Stopped
	}
	parent := model.Parent{VM: s.VMID, Name: s.VM, Snapshot: s.ID}
	if req.Into != "" {
		if v, err := m.Get(req.Into); err == nil && v.State == model.Running && !req.Force {
			return model.Forked{}, fault.New(fault.WrongState, "VM %s is running, and what it is now would be lost", v.Spec.Name).WithHint("stop it first, or restore with --force")
		}
		v, err := m.update(req.Into, func(v *model.VM) error { v.State, v.Parent = state, &parent; return nil })
		return model.Forked{Children: []model.Child{{Name: v.Spec.Name, VM: &v}}}, err
	}
	like := model.VM{State: state, Spec: model.Spec{Name: s.VM, Image: s.Image, Kernel: s.Kernel, VCPUs: s.VCPUs, Memory: s.Memory}}
	forked := m.children(like, req.Fork, model.Origin{Kind: model.FromSnapshot, Of: s.ID, Name: s.Name}, parent, report)
	if req.TrustMemory {
		forked.Notices = []model.Notice{{Text: "the memory is trusted", Hint: "Do not"}}
	}
	return forked, nil
}

// exportMark is the start of a fake export.
const exportMark = "EXPORTED "

// Export writes a large export of night, and fails in the middle of that of clean.
func (m fakeLibrary) Export(ctx context.Context, ref string, w io.Writer, _ step.Reporter) error {
	s, err := m.Get(ctx, ref)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, exportMark+s.Name+"\n"+strings.Repeat("x", 1<<20)); err != nil {
		return err
	}
	if s.Name == "clean" {
		return fault.New(fault.Invalid, "it is damaged")
	}
	return nil
}

func (m fakeLibrary) Import(ctx context.Context, r io.Reader, name string, _ step.Reporter) (model.Snapshot, error) {
	mark := make([]byte, len(exportMark))
	if _, err := io.ReadFull(r, mark); err != nil || string(mark) != exportMark {
		return model.Snapshot{}, fault.New(fault.Invalid, "importing snapshot: it is not an exported snapshot").WithHint("banger snapshot export writes them.")
	}
	rest, err := io.ReadAll(r)
	if err != nil {
		return model.Snapshot{}, err
	}
	own, _, _ := strings.Cut(string(rest), "\n")
	s, err := m.Get(ctx, own)
	s.Name, s.Sealed = cmpOr(name, "plucky-pika"), false
	return s, err
}

// fakeUsage has rows of most kinds.
func fakeUsage() model.DiskUsage {
	rows := []model.UsageRow{
		{Kind: model.UsageVM, Name: "web", Apparent: 18 * model.GiB, Own: 40 * model.MiB, Shared: 200 * model.MiB},
		{Kind: model.UsageVM, Name: "dev", Apparent: 18 * model.GiB, Own: 8 * model.MiB, Reclaimable: 8 * model.MiB},
		{Kind: model.UsageImage, Name: "docker.io/library/nginx:1.27", Apparent: 180 * model.MiB, Own: 170 * model.MiB},
		{Kind: model.UsageSnapshot, Name: "night", Apparent: 19 * model.GiB, Own: 120 * model.MiB},
		{Kind: model.UsageTemplate, Name: fakeTemplates()[0].Key, Apparent: 11 * model.GiB, Own: 90 * model.MiB, Shared: 150 * model.MiB},
		{Kind: model.UsageCache, Name: "image layers", Apparent: 60 * model.MiB, Own: 60 * model.MiB, Reclaimable: 60 * model.MiB},
	}
	u := model.DiskUsage{Rows: rows}
	for _, row := range rows {
		u.Total.Add(row)
	}
	return u
}
