package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"banger/internal/api"
	"banger/internal/api/server"
	"banger/internal/fault"
	"banger/internal/image"
	"banger/internal/initramfs"
	"banger/internal/kernel"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/step"
)

// images adapts the image store to the manager and the API.
type images struct {
	*image.Store
	settings image.Templates
	made     func() madeTemplates // is set when the manager is there
}

// madeTemplates is the part of the templates that an image's settings decide on.
type madeTemplates interface {
	Keys(ctx context.Context, imageID string) ([]string, error)
	Forget(ctx context.Context, imageID string) error
}

// Describe is Get with what is known of the image's templates.
func (s images) Describe(ctx context.Context, ref string) (model.Image, error) {
	img, err := s.Get(ref)
	if err != nil {
		return img, err
	}
	t, err := s.settings.Template(img.ID)
	if err != nil {
		return img, err
	}
	if t.Keys, err = s.made().Keys(ctx, img.ID); err != nil {
		return img, err
	}
	img.Template = &t
	return img, nil
}

// Change changes an image's settings. Templates that are refused from now on are removed.
func (s images) Change(ctx context.Context, ref string, change model.ImageChange) (model.Image, error) {
	switch change.Template {
	case model.TemplateAuto, model.TemplateOn, model.TemplateOff:
	default:
		return model.Image{}, fault.New(fault.Invalid, "template: %q is not auto, on or off", change.Template)
	}
	img, err := s.Describe(ctx, ref)
	if err != nil {
		return img, err
	}
	forget := change.Template != model.TemplateOn && change.Template != img.Template.Mode
	if err := s.settings.SetTemplate(ctx, img.ID, model.ImageTemplate{Mode: change.Template}); err != nil {
		return img, err
	}
	if forget { // auto judges the next boot, and off uses none
		if err := s.made().Forget(ctx, img.ID); err != nil {
			return img, err
		}
	}
	return s.Describe(ctx, img.ID)
}

// Ensure returns the image that ref means. It makes a missing image first.
func (s images) Ensure(ctx context.Context, ref string, report step.Reporter) (model.Image, error) {
	img, err := s.Get(ref)
	if fault.KindOf(err) != fault.NotFound || image.IDLike(ref) {
		return img, err
	}
	return s.Store.Pull(ctx, ref, image.PullOptions{IfMissing: true}, report)
}

func (s images) Pull(ctx context.Context, req api.ImagePull, report step.Reporter) (model.Image, error) {
	return s.Store.Pull(ctx, req.Ref, image.PullOptions{IfMissing: !req.Force}, report)
}

func (s images) Import(ctx context.Context, path string, req api.ImageImport, report step.Reporter) (model.Image, error) {
	opts := image.ImportOptions{Name: req.Name, File: fileName(req.File), Dir: req.Directory}
	if req.Directory {
		opts.Format = image.FormatTar
	}
	return s.Store.Import(ctx, path, opts, report)
}

// fileName returns what a person calls an upload. Standard input is "-", as on a command line.
func fileName(name string) string { return cmp.Or(name, "-") }

func (s images) Delete(_ context.Context, ref string, inUse func(id string) []string) error {
	_, err := s.Store.Delete(ref, inUse)
	return err
}

func (s images) Prune(_ context.Context, inUse func(id string) []string) (model.Pruned, error) {
	const all = true // named ones, too
	gone, err := s.Store.Prune(inUse, all)
	out := model.Pruned{Freed: gone.Freed}
	for _, img := range gone.Images {
		out.Removed = append(out.Removed, label(img.Names, img.ID))
	}
	return out, err
}

// label is the name that a person knows a thing by.
func label(names []string, id string) string {
	if len(names) > 0 {
		return names[0]
	}
	return id[:min(len(id), 12)]
}

// kernels adapts the kernel store to the manager and the API.
type kernels struct {
	*kernel.Store
	initramfs *initramfs.Cache
}

// Ensure returns the kernel that ref means. It downloads a missing kernel first if ref is a
// distribution's.
func (s kernels) Ensure(ctx context.Context, ref string, report step.Reporter) (model.Kernel, error) {
	k, err := s.Get(ref)
	if fault.KindOf(err) != fault.NotFound || ref != kernel.Debian {
		return k, err
	}
	return s.Store.Pull(ctx, ref, report)
}

// Initramfs returns the archives that boot the agent under the kernel: the kernel's modules, then
// the agent.
func (s kernels) Initramfs(_ context.Context, k model.Kernel) (machine.Initramfs, error) {
	binary, err := agentBinary()
	if err != nil {
		return machine.Initramfs{}, fault.New(fault.Unavailable, "making the initramfs: %w", err).WithHint("Run `make build`, or install banger again.")
	}
	agent, err := s.initramfs.Agent(binary)
	if err != nil {
		return machine.Initramfs{}, fmt.Errorf("making the initramfs: %w", err)
	}
	// The archive's name holds the sum of its content.
	found := machine.Initramfs{Archives: []string{agent}, ID: filepath.Base(agent)}
	if k.Modules != "" {
		found.Archives = []string{k.Modules, agent}
	}
	return found, nil
}

// Pull downloads the kernel, unless it exists and force is unset.
func (s kernels) Pull(ctx context.Context, req api.KernelPull, report step.Reporter) (model.Kernel, error) {
	if k, err := s.Get(req.Name); err == nil && !req.Force {
		return k, nil
	}
	return s.Store.Pull(ctx, req.Name, report)
}

func (s kernels) Import(
	ctx context.Context, f server.KernelFiles, req api.KernelImport, report step.Reporter,
) (model.Kernel, error) {
	return s.Store.Import(ctx, kernel.ImportOptions{
		File: fileName(req.File), Path: f.Kernel, ConfigPath: f.Config, ModulesDir: f.Modules, Name: req.Name,
	}, report)
}

// Prune removes all kernels that no VM uses, named ones too.
func (s kernels) Prune(ctx context.Context, inUse func(id string) []string) (model.Pruned, error) {
	all, err := s.List()
	if err != nil {
		return model.Pruned{}, err
	}
	var out model.Pruned
	var errs []error
	remove := func(k model.Kernel) {
		out.Removed = append(out.Removed, label(k.Names, k.ID))
		out.Freed += k.Size
	}
	for _, k := range all {
		if len(inUse(k.ID)) > 0 {
			continue
		}
		if err := s.Delete(ctx, k.ID, inUse); err != nil {
			errs = append(errs, err)
			continue
		}
		remove(k)
	}
	rest, err := s.Store.Prune(ctx, inUse) // remains of crashes, too
	for _, k := range rest {
		remove(k)
	}
	freed, pruneErr := s.initramfs.Prune(unusedInitramfs)
	out.Freed += model.Bytes(freed)
	return out, errors.Join(append(errs, err, pruneErr)...)
}
