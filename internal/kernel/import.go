package kernel

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// ImportOptions are the input of Import.
type ImportOptions struct {
	File       string // what errors and steps call the kernel; Path if unset
	Path       string // of a bzImage or an ELF vmlinux for x86-64
	ModulesDir string // its /lib/modules/<version>; "" if nothing is a module
	ConfigPath string // its configuration; "" to search for it
	Name       string // "" for the kernel's version
	Replace    bool   // take the name from another kernel
}

// Import stores a kernel from a file. If guests cannot run on it, it returns fault.Unsupported with
// all that is missing. If another kernel has the name, it returns fault.Exists.
func (s *Store) Import(ctx context.Context, o ImportOptions, report step.Reporter) (model.Kernel, error) {
	if o.Name != "" {
		if err := CheckName(o.Name); err != nil {
			return model.Kernel{}, err
		}
	}
	src := source{image: o.Path, file: o.File, origin: "import"}
	var err error
	if o.ModulesDir != "" {
		if src.tree, err = dirTree(o.ModulesDir); err != nil {
			return model.Kernel{}, err
		}
	}
	if src.config, err = findConfig(o); err != nil {
		return model.Kernel{}, err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return model.Kernel{}, err
	}
	defer unlock()
	k, err := s.build(ctx, src, report)
	if err != nil {
		return model.Kernel{}, err
	}
	name := o.Name
	if name == "" {
		if name = strings.ToLower(k.Version); CheckName(name) != nil {
			return s.Get(k.ID)
		}
	}
	return s.name(k, name, o.Replace)
}

// name gives the kernel a name and returns the kernel with all its names.
func (s *Store) name(k model.Kernel, name string, replace bool) (model.Kernel, error) {
	other, err := s.get(name)
	if err == nil && slices.Contains(other.Names, name) && other.ID != k.ID && !replace {
		return model.Kernel{}, fault.New(fault.Exists, "the name %s belongs to kernel %s (%s)",
			name, other.ID[:12], other.Version).
			WithHint("Choose another one with --name, or delete that kernel first.")
	}
	if err := s.setName(name, k.ID); err != nil {
		return model.Kernel{}, err
	}
	return s.Get(k.ID)
}

// findConfig reads the given configuration, or searches where distributions put it:
// /lib/modules/<version>/config, or config-<version> beside vmlinuz-<version>.
func findConfig(o ImportOptions) ([]byte, error) {
	if o.ConfigPath != "" {
		config, err := readBounded(o.ConfigPath, maxConfig)
		if err != nil {
			return nil, fault.New(fault.Invalid, "reading the kernel's configuration: %w", err)
		}
		return config, nil
	}
	var places []string
	if o.ModulesDir != "" {
		places = append(places, filepath.Join(o.ModulesDir, "config"))
	}
	if _, version, ok := strings.Cut(filepath.Base(o.Path), "-"); ok {
		places = append(places, filepath.Join(filepath.Dir(o.Path), "config-"+version))
	}
	for _, p := range places {
		config, err := readBounded(p, maxConfig)
		if err == nil {
			return config, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
			return nil, fault.New(fault.Invalid, "reading the kernel's configuration: %w", err)
		}
	}
	return nil, nil
}
