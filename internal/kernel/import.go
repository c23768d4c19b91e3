package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/regular"
	"banger/internal/step"
)

// ImportOptions are the input of Import.
type ImportOptions struct {
	File       string // what errors and steps call the kernel; Path if unset
	Path       string // of a bzImage or an ELF vmlinux for x86-64
	ModulesDir string // its /lib/modules/<version>; "" if nothing is a module
	ConfigPath string // its configuration; "" to search for it
	// Name is what the kernel is called, also if another kernel has the name. By default that is
	// the kernel's version, which takes nothing from another kernel.
	Name string
}

// Import stores a kernel from a file. If guests cannot run on it, it returns fault.Unsupported with
// all that is missing.
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
	if o.Name != "" {
		return s.name(k, o.Name)
	}
	return s.nameByVersion(k)
}

// Tag gives a kernel a name. If another kernel has the name, the name moves.
func (s *Store) Tag(ctx context.Context, ref, name string) (model.Kernel, error) {
	if err := CheckName(name); err != nil {
		return model.Kernel{}, err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return model.Kernel{}, err
	}
	defer unlock()
	k, err := s.Get(ref)
	if err != nil {
		return model.Kernel{}, err
	}
	return s.name(k, name)
}

// name gives the kernel a name that a person asked for. It returns the kernel with all its names,
// this one first.
func (s *Store) name(k model.Kernel, name string) (model.Kernel, error) {
	before, err := s.named(name)
	if err != nil {
		return model.Kernel{}, err
	}
	if err := s.setName(name, k.ID); err != nil {
		return model.Kernel{}, err
	}
	k, err = s.Get(name)
	if before != "" && before != k.ID {
		k.Notices = append(k.Notices, model.NameMoved("kernel", name, k.ID, before))
	}
	return k, err
}

// nameByVersion gives the kernel its version as its name. The version stands in the file and is
// nobody's wish. So it takes nothing from another kernel. A version is never the name Debian.
func (s *Store) nameByVersion(k model.Kernel) (model.Kernel, error) {
	name := strings.ToLower(k.Version)
	before, err := s.named(name)
	switch {
	case err != nil:
		return model.Kernel{}, err
	case CheckName(name) != nil || before == k.ID:
		return s.ByID(k.ID)
	case before == "":
		return s.name(k, name)
	}
	k, err = s.ByID(k.ID)
	k.Notices = append(k.Notices, model.NameKept("kernel", name, k.ID, fmt.Sprintf("it names %.12s", before)))
	return k, err
}

// named returns the id that a name refers to, or "".
func (s *Store) named(name string) (string, error) {
	names, err := s.names()
	if err != nil {
		return "", err
	}
	for id, all := range names {
		if slices.Contains(all, name) {
			return id, nil
		}
	}
	return "", nil
}

// findConfig reads the given configuration, or searches where distributions put it:
// /lib/modules/<version>/config, or config-<version> beside vmlinuz-<version>.
func findConfig(o ImportOptions) ([]byte, error) {
	if o.ConfigPath != "" {
		config, err := regular.Read(o.ConfigPath, maxConfig)
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
		config, err := regular.Read(p, maxConfig)
		if err == nil {
			return config, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
			return nil, fault.New(fault.Invalid, "reading the kernel's configuration: %w", err)
		}
	}
	return nil, nil
}
