package machine

import (
	"context"
	"fmt"
	"slices"
	"time"

	"banger/internal/disk"
	"banger/internal/guest/proto"
	"banger/internal/model"
	"banger/internal/paths"
)

// assume gives the guest its identity, or lets a guest that keeps its own continue.
func (l *Launch) assume(ctx context.Context) error {
	if l.Source.traits().keepsSelf {
		doc, err := l.host.Thaw(ctx, l.Subject)
		if err != nil {
			return err
		}
		return l.Machine.whileItRuns(ctx, func(ctx context.Context) error { return l.Machine.Agent.Thaw(ctx, doc) })
	}
	doc, err := l.identity(ctx)
	if err != nil {
		return err
	}
	l.nameDrives(&doc)
	return l.Machine.whileItRuns(ctx, func(ctx context.Context) error {
		if l.assumed, err = l.Machine.Agent.Assume(ctx, doc); err != nil || l.order.Identity != Own {
			return err
		}
		return l.growDisks(ctx)
	})
}

// nameDrives replaces the host's names of drives by the ids under which this guest finds them.
func (l *Launch) nameDrives(doc *proto.Assume) {
	id := l.Machine.Instance.DriveID
	doc.Root.Image, doc.Root.System = id(doc.Root.Image), id(doc.Root.System)
	for i := range doc.Mounts {
		doc.Mounts[i].Serial = id(doc.Mounts[i].Serial)
	}
}

// identity is the document that the guest gets. An anonymous one has only what all VMs of this
// shape have in common: no file, key or user.
func (l *Launch) identity(ctx context.Context) (proto.Assume, error) {
	spec := l.Subject.Spec
	full := anonymous(l.Subject, l.image)
	full.Env = guestEnv(l.image, spec)
	full.User = firstOf(spec.User, l.image.Config.User)
	full.Workdir = firstOf(spec.Workdir, l.image.Config.WorkingDir)
	sizes, err := driveSizes(l.host.Layout.VM(l.Subject.ID))
	if err != nil {
		return full, err
	}
	full.Root.SystemSize = int64(sizes[proto.SerialSystem])
	if full.Networks, err = l.host.networks(ctx, l.Subject); err != nil {
		return full, err
	}
	if err := l.host.contribute(ctx, GuestRequest{Subject: l.Subject, Sizes: sizes, Assume: &full}); err != nil {
		return full, err
	}
	full.Time = time.Now()
	if l.order.Identity == Own {
		return full, nil
	}
	doc := anonymous(l.Subject, l.image)
	doc.Root.SystemSize = full.Root.SystemSize
	doc.Networks, doc.Mounts, doc.Env = full.Networks, full.Mounts, full.Env
	return doc, nil
}

func (h *Host) contribute(ctx context.Context, req GuestRequest) error {
	for _, c := range h.Capabilities {
		if p, ok := c.(GuestContributor); ok {
			if err := p.ContributeGuest(ctx, req); err != nil {
				return fmt.Errorf("%s: %w", c.Name(), err)
			}
		}
	}
	return nil
}

// anonymous is the part of an identity that needs neither a user nor capabilities.
func anonymous(s Subject, img model.Image) proto.Assume {
	doc := proto.Assume{
		Entropy:  newEntropy(),
		Time:     time.Now(),
		Hostname: s.Spec.Name,
		Root: proto.Root{
			Image: proto.SerialImage, ImageSize: int64(img.Size), System: proto.SerialSystem,
		},
		MachineID: s.ID + s.ID, // it takes 128 bits, and the id is unique
	}
	if img.Init != "" {
		doc.Init = []string{img.Init}
	}
	return doc
}

// Thaw is what a guest gets that continues as the one that it was: new entropy, the time, and its
// cards again, whose host side may be new.
func (h *Host) Thaw(ctx context.Context, s Subject) (proto.Thaw, error) {
	networks, err := h.networks(ctx, s)
	return proto.Thaw{Entropy: newEntropy(), Time: time.Now(), Networks: networks}, err
}

func (h *Host) networks(ctx context.Context, s Subject) (networks []proto.Network, err error) {
	for _, c := range h.Capabilities {
		if p, ok := c.(NetworkContributor); ok {
			if err := p.ContributeNetwork(ctx, NetworkRequest{Subject: s, Networks: &networks}); err != nil {
				return nil, fmt.Errorf("%s: %w", c.Name(), err)
			}
		}
	}
	return networks, nil
}

// growDisks grows the file systems that a template has mounted to the sizes of this machine's
// disks. In other cases the guest does so when it mounts a disk.
func (l *Launch) growDisks(ctx context.Context) error {
	spec, was := l.Subject.Spec, l.Source.traits().mounted
	files := l.host.Layout.VM(l.Subject.ID)
	for _, d := range []struct {
		was, want  model.Bytes
		path, name string
	}{
		{was.DiskSize, spec.DiskSize, files.SystemDisk(), proto.SerialSystem},
		{was.WorkDiskSize, spec.WorkDiskSize, files.WorkDisk(), proto.SerialWork},
	} {
		if d.was == 0 || d.was >= d.want {
			continue
		}
		if _, err := GrowDisk(ctx, l.Machine, Drive{Path: d.path, Name: d.name, Size: d.want}); err != nil {
			return err
		}
	}
	return nil
}

// driveSizes are the sizes of the writable drives, by serial.
func driveSizes(files paths.VM) (map[string]model.Bytes, error) {
	size, _, err := disk.Usage(files.SystemDisk())
	if err != nil {
		return nil, err
	}
	sizes := map[string]model.Bytes{proto.SerialSystem: size}
	if size, _, err := disk.Usage(files.WorkDisk()); err == nil {
		sizes[proto.SerialWork] = size
	}
	return sizes, nil
}

// guestEnv is the image's environment with the VM's own on top, in a fixed order.
func guestEnv(img model.Image, spec model.Spec) []string {
	env := slices.Clone(img.Config.Env)
	for _, name := range sortedKeys(spec.Env) {
		env = append(env, name+"="+spec.Env[name])
	}
	return env
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
