package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/step"
	"banger/internal/store"
	"banger/internal/vmm"
	"banger/internal/vmm/fake"
)

// recordStore is the real store with hooks, so that a disk can be full.
type recordStore struct {
	*store.Store
	s *session
}

func (r recordStore) PutVM(ctx context.Context, v model.VM) error {
	r.s.mu.Lock()
	r.s.records[v.ID] = true
	r.s.mu.Unlock()
	if err := r.s.hook(ctx, "", "store "+string(v.State)); err != nil {
		return err
	}
	return r.Store.PutVM(ctx, v)
}

func (r recordStore) DeleteVM(ctx context.Context, id string) error {
	if err := r.s.hook(ctx, "", "store gone"); err != nil {
		return err
	}
	return r.Store.DeleteVM(ctx, id)
}

// driver is the fake driver with a hook for its look at a machine.
type driver struct {
	*fake.Driver
	s *session
}

func (d driver) Fingerprint(ctx context.Context, m vmm.Machine) (string, error) {
	name := "do origin"
	if m.Kernel == "" {
		name = "shape"
	}
	if err := d.s.hook(ctx, m.ID, name); err != nil {
		return "", err
	}
	return d.Driver.Fingerprint(ctx, m)
}

// options are those of the fake driver. Its guests only send their machine's id on the channel,
// because the rest of the agent is a stand-in. A halted guest cannot be heard.
func (s *session) options() fake.Options {
	return fake.Options{
		Agent: func(m vmm.Machine, conn net.Conn) {
			if _, err := fmt.Fprintln(conn, m.ID); err == nil {
				_, _ = io.Copy(io.Discard, conn)
			}
		},
		Fail: s.driverHook, IgnorePowerButton: !s.answersButton, Info: s.driverInfo(),
	}
}

// driverInfo is what the driver reports of itself.
func (s *session) driverInfo() vmm.Info {
	info := vmm.Info{
		Version: s.version, Accel: cmp.Or(s.accel, "none"), Grace: time.Minute,
		Features: vmm.Features{vmm.FeatureUserNet, vmm.FeatureTap, vmm.FeatureTellsReboot},
	}
	if s.oneCPU != "" {
		info.Recommendations = []vmm.Recommendation{{Kind: vmm.MaxVCPUsWithInit, Value: 1, Reason: s.oneCPU}}
	}
	return info
}

// driverHook translates the fake driver's operations to names of hooks.
func (s *session) driverHook(op fake.Op, id string) error {
	if op == fake.OpLook {
		s.stall("look " + id)
	}
	name, ok := map[fake.Op]string{
		fake.OpInfo: "do preflight", fake.OpStarted: "do vmm", fake.OpAdopt: "adopt",
		fake.OpPowerOff: "power button", fake.OpSignal: "signal", fake.OpResize: "drive",
		fake.OpPause: "halt", fake.OpResume: "resume", fake.OpSave: "save", fake.OpStill: "still",
		fake.OpRestore: "restore", fake.OpReach: "reach",
	}[op]
	if !ok {
		return nil
	}
	return s.hook(context.Background(), id, name)
}

type images struct{ s *session }

const imageWithInit = "img-with-init"

func (i images) Ensure(ctx context.Context, ref string, _ step.Reporter) (model.Image, error) {
	img := model.Image{ID: i.s.idOf(ref)}
	if ref == imageWithInit {
		img.Init = "/sbin/init"
	}
	return img, i.s.hook(ctx, "", "ensure image")
}

func (i images) ByID(id string) (model.Image, error) { return i.Get(id) }

func (i images) Get(ref string) (model.Image, error) {
	img := model.Image{ID: ref, Path: i.s.file}
	img.Config = model.ImageConfig{Env: []string{"A=image", "B=image"}, User: "app", WorkingDir: "/app"}
	if ref == i.s.idOf(imageWithInit) {
		img.Init = "/sbin/init"
	}
	return img, errors.Join(i.s.isGone(ref), i.s.hook(context.Background(), "", "get image"))
}

type kernels struct{ s *session }

func (k kernels) Ensure(ctx context.Context, ref string, _ step.Reporter) (model.Kernel, error) {
	return model.Kernel{ID: k.s.idOf(ref)}, k.s.hook(ctx, "", "ensure kernel")
}

func (k kernels) ByID(id string) (model.Kernel, error) { return k.Get(id) }

// Get returns a kernel with a file of its own.
func (k kernels) Get(ref string) (model.Kernel, error) {
	file := k.s.file + "-" + ref
	f, err := os.OpenFile(file, os.O_CREATE, 0o600)
	if err == nil {
		err = f.Close()
	}
	return model.Kernel{ID: ref, Vmlinux: file}, errors.Join(err, k.s.isGone(ref))
}

func (k kernels) Initramfs(ctx context.Context, _ model.Kernel) (machine.Initramfs, error) {
	return machine.Initramfs{Archives: []string{k.s.file}, ID: "agent"}, k.s.hook(ctx, "", "do initramfs")
}

// capability makes a file per VM on the host, which its cleanup must remove.
type capability struct {
	s    *session
	name string
}

func (c capability) Name() string { return c.name }

func (c capability) Preflight(ctx context.Context, req machine.PreflightRequest) error {
	return c.s.hook(ctx, req.ID, "preflight "+c.name)
}

func (c capability) PrepareHost(ctx context.Context, req machine.HostRequest) error {
	if err := os.WriteFile(c.s.heldBy(req.ID, c.name), nil, 0o600); err != nil {
		return err
	}
	return c.s.hook(ctx, req.ID, "do prepare/"+c.name)
}

func (c capability) PostStart(ctx context.Context, req machine.PostStartRequest) error {
	return c.s.hook(ctx, req.ID, "do post-start/"+c.name)
}

func (c capability) Cleanup(ctx context.Context, req machine.CleanupRequest) error {
	if err := c.s.hook(ctx, req.ID, "undo "+c.name); err != nil {
		return err
	}
	return os.RemoveAll(c.s.heldBy(req.ID, c.name))
}

func (c capability) ContributeGuest(_ context.Context, req machine.GuestRequest) error {
	req.Assume.Files = append(req.Assume.Files, proto.File{Path: "/" + c.name})
	return nil
}

func (c capability) RecordsChanged(_ context.Context, vms []model.VM) error {
	var names []string
	for _, v := range vms {
		names = append(names, v.Spec.Name)
	}
	slices.Sort(names)
	return c.s.hook(context.Background(), "", fmt.Sprintf("records %v", names))
}

// homes makes work disks, as the real capability does.
type homes struct{ s *session }

func (homes) Name() string { return "homes" }

func (c homes) PrepareHost(ctx context.Context, req machine.HostRequest) error {
	if req.Spec.WorkDiskSize == 0 {
		return nil
	}
	path := c.s.layout.VM(req.ID).WorkDisk()
	err := machine.FitDisk(path, req.Spec.WorkDiskSize)
	if fault.KindOf(err) == fault.NotFound {
		return disk.Create(ctx, path, req.Spec.WorkDiskSize)
	}
	return err
}

func (c homes) Cleanup(_ context.Context, req machine.CleanupRequest) error {
	if !req.Fresh {
		return nil
	}
	return os.RemoveAll(c.s.layout.VM(req.ID).WorkDisk())
}

func (c homes) ContributeMachine(_ context.Context, req machine.MachineRequest) error {
	if req.Spec.WorkDiskSize != 0 {
		req.Machine.Drives = append(req.Machine.Drives, vmm.Drive{Name: proto.SerialWork, Path: c.s.layout.VM(req.ID).WorkDisk()})
	}
	return nil
}
