package kernel

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
)

const (
	maxDebContent = 4 << 30 // a full distribution kernel has about 500 MB
	maxDebEntries = 200_000
)

// debKernel is the content of a kernel package.
type debKernel struct {
	image  string // path of the vmlinuz
	config []byte
	tree   *tree
}

// readDeb unpacks a kernel package. It reads only regular files of a kernel, and writes them to two
// files with names of its own, so no path of the package reaches the host.
func readDeb(ctx context.Context, deb, dir string, room *disk.Room) (debKernel, error) {
	ctx, cancel := context.WithTimeout(ctx, aptTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	cmd.WaitDelay = 5 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return debKernel{}, fmt.Errorf("running dpkg-deb: %w", err)
	}
	content := io.LimitReader(out, maxDebContent)
	k, err := readKernelTar(content, dir, room)
	// Read padding, and what dpkg-deb still writes before it fails.
	io.Copy(io.Discard, content)
	out.Close()
	if waitErr := cmd.Wait(); waitErr != nil { // the cause of earlier errors
		err = fault.New(fault.Invalid, "unpacking the package: dpkg-deb: %w: %.300s",
			errors.Join(waitErr, context.Cause(ctx)), strings.TrimSpace(stderr.String()))
	}
	return k, err
}

// spool is a file that keeps all modules until it is known which of them are needed.
type spool struct {
	f    *os.File
	room *disk.Room
	size int64
}

// keep appends r and returns a function to read it again.
func (s *spool) keep(r io.Reader) (func() (io.ReadCloser, error), error) {
	start := s.size
	n, err := io.Copy(io.MultiWriter(s.room, s.f), r)
	s.size += n
	if err != nil {
		return nil, err
	}
	name := s.f.Name()
	return func() (io.ReadCloser, error) {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		return struct {
			io.Reader
			io.Closer
		}{io.NewSectionReader(f, start, n), f}, nil
	}, nil
}

// readKernelTar reads the content of a kernel package, and writes the image and the modules to dir.
func readKernelTar(r io.Reader, dir string, room *disk.Room) (k debKernel, err error) {
	f, err := os.OpenFile(filepath.Join(dir, "modules.spool"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return k, fmt.Errorf("unpacking the package: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	s := &spool{f: f, room: room}
	k.tree = &tree{modules: map[string]moduleFile{}}
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || n > maxDebEntries {
			return k, fault.New(fault.Invalid, "unpacking the package: entry %d: %w", n, err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := k.take(strings.TrimPrefix(path.Clean("/"+h.Name), "/usr"), tr, dir, s); err != nil {
			return k, fmt.Errorf("unpacking the package: %w", err)
		}
	}
	if k.image == "" {
		return k, fault.New(fault.Invalid, "the package holds no /boot/vmlinuz-*")
	}
	return k, nil
}

// take keeps a file of the package if it is part of the kernel. name is its clean absolute path,
// without /usr.
func (k *debKernel) take(name string, r io.Reader, dir string, s *spool) (err error) {
	file := path.Base(name)
	switch {
	case path.Dir(name) == "/boot" && strings.HasPrefix(file, "vmlinuz-") && k.image == "":
		k.image = filepath.Join(dir, "vmlinuz")
		f, err := os.OpenFile(k.image, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		return errors.Join(copyBounded(f, r, maxBzImage), f.Close())
	case path.Dir(name) == "/boot" && strings.HasPrefix(file, "config-"):
		k.config, err = io.ReadAll(io.LimitReader(r, maxConfig))
	case strings.HasPrefix(name, "/lib/modules/"):
		if module, ok := isModule(file); ok {
			m := moduleFile{file: file}
			m.open, err = s.keep(r)
			k.tree.modules[module] = m
		} else if file == "modules.builtin" {
			k.tree.version = path.Base(path.Dir(name))
			k.tree.builtin, err = parseBuiltin(r)
		}
	}
	return err
}
