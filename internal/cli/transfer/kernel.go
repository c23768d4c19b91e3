package transfer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"banger/internal/fault"
	"banger/internal/regular"
)

// KernelFiles are the files that a kernel is imported from.
type KernelFiles struct {
	Path    string // a bzImage or an ELF vmlinux; "-" for standard input
	Modules string // the directory of one version's modules, or ""
}

// maxKernel bounds a kernel on standard input, which is held in memory, bytes.
const maxKernel = 256 << 20

// OpenKernel opens a kernel with its configuration and modules as a tar: see api.KernelImport.
func OpenKernel(ctx context.Context, in io.Reader, o KernelFiles) (*Content, error) {
	kernel, err := Open(ctx, in, o.Path)
	if err != nil {
		return nil, err
	}
	if kernel.Directory {
		return nil, errors.Join(fault.New(fault.Invalid, "%s is a directory", kernel.File), kernel.Close())
	}
	if kernel.Size == 0 { // standard input or a pipe, of which a tar has to know the size
		data, err := io.ReadAll(io.LimitReader(kernel, maxKernel+1))
		err = errors.Join(err, kernel.Close())
		if err == nil && len(data) > maxKernel {
			err = fault.New(fault.Invalid, "the kernel is larger than %d bytes", maxKernel)
		}
		if err != nil {
			return nil, err
		}
		kernel.ReadCloser, kernel.Size = io.NopCloser(strings.NewReader(string(data))), int64(len(data))
	}
	modules, err := moduleDir(o.Modules)
	if err != nil {
		return nil, errors.Join(err, kernel.Close())
	}
	pr, pw := io.Pipe()
	go func() {
		defer kernel.Close()
		k := kernelPacker{ctx: ctx, tw: tar.NewWriter(pw)}
		err := k.pack(kernel, modules)
		if err == nil {
			err = k.tw.Close()
		}
		pw.CloseWithError(err)
	}()
	return &Content{ReadCloser: pr, File: kernel.File}, nil
}

// moduleDir finds the directory of one kernel version's modules, whose name is the version.
func moduleDir(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	abs, err := filepath.Abs(name)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return "", fileFault(fmt.Errorf("opening the modules' directory: %w", err))
	}
	if info, err := os.Stat(abs); err != nil || !info.IsDir() {
		return "", errors.Join(fault.New(fault.Invalid, "%s is not a directory", name), err)
	}
	return abs, nil
}

// kernelPacker writes a kernel's archive.
type kernelPacker struct {
	ctx context.Context
	tw  *tar.Writer
}

func (k kernelPacker) pack(kernel *Content, modules string) error {
	if err := k.add("kernel", kernel, kernel.Size); err != nil {
		return err
	}
	if config := configOf(kernel.File, modules); config != "" {
		if err := k.addFile("config", config); err != nil {
			return err
		}
	}
	if modules == "" {
		return nil
	}
	return filepath.WalkDir(modules, func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case k.ctx.Err() != nil:
			return context.Cause(k.ctx)
		case !d.Type().IsRegular() || !ofModules(d.Name()):
			return nil
		}
		rel, err := filepath.Rel(modules, file)
		if err != nil {
			return err
		}
		return k.addFile(path.Join("modules", filepath.Base(modules), filepath.ToSlash(rel)), file)
	})
}

// ofModules reports whether an import needs a file of a modules' directory: modules, what lists
// them, and what depmod made of them.
func ofModules(name string) bool {
	return strings.Contains(name, ".ko") || strings.HasPrefix(name, "modules.") || name == "config"
}

// configOf finds a kernel's configuration: in the modules' directory, where it is sent with the
// modules, or beside the kernel, as /boot/config-VERSION beside /boot/vmlinuz-VERSION.
func configOf(kernel, modules string) string {
	if modules != "" {
		if _, err := os.Stat(filepath.Join(modules, "config")); err == nil {
			return ""
		}
	}
	_, version, ok := strings.Cut(filepath.Base(kernel), "-")
	config := filepath.Join(filepath.Dir(kernel), "config-"+version)
	f, err := regular.Open(config)
	if !ok || err != nil {
		return ""
	}
	f.Close()
	return config
}

func (k kernelPacker) addFile(name, file string) error {
	f, err := regular.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return k.add(name, f, info.Size())
}

func (k kernelPacker) add(name string, r io.Reader, size int64) error {
	if err := k.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644}); err != nil {
		return err
	}
	if _, err := io.CopyN(k.tw, r, size); err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	return nil
}
