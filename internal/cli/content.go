package cli

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
	"syscall"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/guest/archive"
	"banger/internal/step"
)

// content is what an import sends to the daemon. The CLI opens it, so an import reads what its
// user may read.
type content struct {
	io.ReadCloser
	file      string // what errors call it: its absolute path, "" for standard input
	size      int64  // bytes; 0 if unknown
	sparse    bool   // it is in the form of api.PackSparse
	directory bool   // it is a tar made of a directory with a root file system
}

// Read marks an error of reading as the user's to correct, and not as a lost daemon.
func (c *content) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = fault.New(fault.KindOf(fileFault(err)), "%w", err).WithHint("%s", fault.HintOf(err))
	}
	return n, err
}

// counted reports how much has been sent.
func (c *content) counted(report step.Reporter) io.Reader { return counted(c, "send", c.size, report) }

// openContent opens a file, a directory as a tar, or "-" for in, which is standard input.
func openContent(ctx context.Context, in io.Reader, name string) (*content, error) {
	if name == "-" {
		if terminal(in) != nil {
			return nil, fault.New(fault.Invalid, "standard input is a terminal").WithHint("For example: docker save app | banger image import -")
		}
		return &content{ReadCloser: io.NopCloser(in)}, nil
	}
	abs, err := filepath.Abs(name)
	if err != nil {
		return nil, fmt.Errorf("finding %s: %w", name, err)
	}
	f, err := os.Open(abs)
	if err != nil {
		return nil, fileFault(err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if !info.IsDir() {
		return &content{ReadCloser: f, file: abs, size: info.Size()}, nil
	}
	_, layout := os.Lstat(filepath.Join(abs, "oci-layout")) // OCI image-spec, image-layout.md
	return &content{ReadCloser: archive.PackRoot(ctx, abs), file: abs, directory: layout != nil}, f.Close()
}

// sparsely leaves the holes of a file out: an ext4 file has many, and sending them takes seconds.
func (c *content) sparsely() {
	f, ok := c.ReadCloser.(*os.File)
	if !ok {
		return
	}
	info, err := f.Stat()
	st, known := info.Sys().(*syscall.Stat_t)
	if err != nil || !known || !info.Mode().IsRegular() || st.Blocks*512 >= info.Size() {
		return
	}
	c.ReadCloser, c.sparse, c.size = both{api.PackSparse(f, info.Size()), f}, true, st.Blocks*512
}

// both closes a reader and the file below it.
type both struct {
	io.ReadCloser
	file io.Closer
}

func (b both) Close() error { return errors.Join(b.ReadCloser.Close(), b.file.Close()) }

type kernelImportOptions struct {
	path, name, modules string
}

// maxKernel bounds a kernel on standard input, which is held in memory, bytes.
const maxKernel = 256 << 20

// openKernel opens a kernel with its configuration and modules as a tar: see api.KernelImport.
func openKernel(ctx context.Context, in io.Reader, o kernelImportOptions) (*content, error) {
	kernel, err := openContent(ctx, in, o.path)
	if err != nil {
		return nil, err
	}
	if kernel.directory {
		return nil, errors.Join(fault.New(fault.Invalid, "%s is a directory", kernel.file), kernel.Close())
	}
	if kernel.size == 0 { // standard input or a pipe, of which a tar has to know the size
		data, err := io.ReadAll(io.LimitReader(kernel, maxKernel+1))
		err = errors.Join(err, kernel.Close())
		if err == nil && len(data) > maxKernel {
			err = fault.New(fault.Invalid, "the kernel is larger than %d bytes", maxKernel)
		}
		if err != nil {
			return nil, err
		}
		kernel.ReadCloser, kernel.size = io.NopCloser(strings.NewReader(string(data))), int64(len(data))
	}
	modules, err := moduleDir(o.modules)
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
	return &content{ReadCloser: pr, file: kernel.file}, nil
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

func (k kernelPacker) pack(kernel *content, modules string) error {
	if err := k.add("kernel", kernel, kernel.size); err != nil {
		return err
	}
	if config := configOf(kernel.file, modules); config != "" {
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
	f, err := os.Open(config)
	if !ok || err != nil {
		return ""
	}
	f.Close()
	return config
}

func (k kernelPacker) addFile(name, file string) error {
	f, err := os.Open(file)
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
