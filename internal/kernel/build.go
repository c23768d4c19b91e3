package kernel

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/regular"
	"banger/internal/step"
)

// Names of a kernel's files.
const (
	vmlinuzFile = "vmlinuz"
	vmlinuxFile = "vmlinux"
	configFile  = "config"
	modulesFile = "modules.cpio"
	recordFile  = "kernel.json"
)

// source is the input of a kernel.
type source struct {
	file   string // the image's name in errors and steps; its path if unset
	image  string // path of a bzImage or an ELF kernel
	config []byte // nil if unknown; the kernel may contain it
	tree   *tree  // nil if there is none
	origin string // for the record
}

// name is the image's name in errors and steps.
func (s source) name() string { return cmp.Or(s.file, s.image) }

// build makes a kernel in a temporary directory and publishes it. If a kernel of the same input
// exists, it returns that. The caller holds the lock.
func (s *Store) build(ctx context.Context, src source, report step.Reporter) (model.Kernel, error) {
	tmp, release, err := s.tempDir()
	if err != nil {
		return model.Kernel{}, err
	}
	defer release()
	b := builder{ctx: ctx, dir: tmp, src: src, report: report}
	for _, part := range []func() error{b.unpackImage, b.inspect, b.collectModules, b.seal} {
		if err := errors.Join(ctx.Err()); err != nil {
			return model.Kernel{}, err
		}
		if err := part(); err != nil {
			return model.Kernel{}, err
		}
	}
	for _, w := range b.rec.Warnings {
		s.log.WarnContext(ctx, "kernel", "version", b.rec.Version, "warning", w)
	}
	if err := s.publish(tmp, b.rec.ID); err != nil {
		return model.Kernel{}, err
	}
	r, err := s.load(b.rec.ID)
	return r.Kernel, err
}

// publish renames a complete directory to its final name.
func (s *Store) publish(tmp, id string) error {
	final := filepath.Join(s.dir, id)
	if r, err := s.load(id); err == nil && r.Recipe == recipe {
		return nil
	}
	if _, err := os.Lstat(final); err == nil { // damaged, or made by an older recipe
		if err := s.remove(model.Kernel{ID: id}); err != nil {
			return err
		}
	}
	if err := os.Rename(tmp, final); err != nil {
		return fmt.Errorf("storing the kernel: %w", err)
	}
	return disk.SyncDir(s.dir)
}

// tempDir makes a directory that sweep ignores until release. release removes the rest of it.
func (s *Store) tempDir() (dir string, release func(), err error) {
	dir, err = os.MkdirTemp(s.dir, tmpPrefix)
	if err != nil {
		return "", nil, fmt.Errorf("making a temporary directory: %w", err)
	}
	f, err := os.Open(dir)
	if err == nil {
		err = errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), os.Chmod(dir, 0o755))
	}
	if err != nil {
		os.RemoveAll(dir)
		return "", nil, fmt.Errorf("making a temporary directory: %w", err)
	}
	return dir, func() { os.RemoveAll(dir); f.Close() }, nil
}

// builder holds what the parts of one build share.
type builder struct {
	ctx    context.Context
	dir    string
	src    source
	report step.Reporter
	rec    record

	version string // from the image's header, or ""
	kernel  vmlinux
}

func (b *builder) path(file string) string { return filepath.Join(b.dir, file) }

// unpackImage stores the image and extracts the ELF kernel.
func (b *builder) unpackImage() (err error) {
	end := b.report.Track("kernel/vmlinux", "taking the ELF kernel out of "+filepath.Base(b.src.name()))
	defer func() { end(err) }()
	f, err := regular.Open(b.src.image)
	switch {
	case fault.KindOf(err) == fault.Damaged:
		return fault.New(fault.Invalid, "opening the kernel: %w", err)
	case err != nil:
		return fault.New(fault.NotFound, "opening the kernel: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("opening the kernel: %w", err)
	}
	if !isBzImage(f) {
		return b.create(vmlinuxFile, func(w io.Writer) error { return copyBounded(w, f, maxVmlinux) })
	}
	image, err := parseBzImage(f, info.Size())
	if err != nil {
		return fmt.Errorf("reading %s: %w", b.src.name(), err)
	}
	b.version = image.version
	whole := io.NewSectionReader(f, 0, info.Size())
	return errors.Join(
		b.create(vmlinuzFile, func(w io.Writer) error { return copyBounded(w, whole, maxBzImage) }),
		b.create(vmlinuxFile, func(w io.Writer) error { _, err := image.extract(w, maxVmlinux); return err }))
}

// inspect reads the ELF kernel and determines its version and configuration.
func (b *builder) inspect() error {
	image, unmap, err := mapFile(b.path(vmlinuxFile))
	if err != nil {
		return err
	}
	defer unmap()
	b.kernel, err = parseVmlinux(image)
	if err != nil {
		return fmt.Errorf("reading the kernel in %s: %w", b.src.name(), err)
	}
	if b.version != "" && b.version != b.kernel.version {
		return fault.New(fault.Invalid, "the kernel's header has version %s, and the kernel itself %s",
			b.version, b.kernel.version)
	}
	if b.src.config == nil {
		b.src.config = b.kernel.config
	}
	if b.src.config == nil {
		return nil
	}
	return b.create(configFile, func(w io.Writer) error { _, err := w.Write(b.src.config); return err })
}

// collectModules checks that guests can run on the kernel, and writes the archive of its modules.
func (b *builder) collectModules() (err error) {
	end := b.report.Track("kernel/modules", "collecting what a guest on "+b.kernel.version+" loads")
	defer func() { end(err) }()
	k := facts{version: b.kernel.version, pvh: b.kernel.pvh, tree: b.src.tree}
	if b.src.config != nil {
		k.config = parseConfig(b.src.config)
	}
	v, err := k.judge()
	if err != nil {
		return err
	}
	b.rec.Warnings = v.warnings
	for _, w := range v.warnings {
		b.report.Report(step.Event{Step: "kernel/modules", Phase: step.Progress, Detail: "warning: " + w})
	}
	if len(v.load) == 0 {
		return nil
	}
	modules, err := b.src.tree.closure(v.load, b.kernel.version)
	if err != nil {
		return err
	}
	return b.create(modulesFile, func(w io.Writer) error { return writeModules(w, modules) })
}

// seal computes the kernel's id from its input and writes the record.
func (b *builder) seal() error {
	id := sha256.New()
	for _, file := range []string{vmlinuzFile, vmlinuxFile, configFile, modulesFile} {
		sum, size, err := hashFile(b.path(file))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		b.rec.Size += model.Bytes(size)
		fmt.Fprintf(id, "%s %s\n", file, sum)
	}
	b.rec.ID = hex.EncodeToString(id.Sum(nil))
	b.rec.Version, b.rec.Source, b.rec.Arch = b.kernel.version, b.src.origin, "amd64"
	b.rec.Created, b.rec.Recipe = time.Now().UTC().Truncate(time.Millisecond), recipe
	data, err := json.MarshalIndent(b.rec, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the kernel's record: %w", err)
	}
	if err := b.create(recordFile, func(w io.Writer) error { _, err := w.Write(data); return err }); err != nil {
		return err
	}
	return disk.SyncDir(b.dir)
}

// create writes and syncs a file of the kernel.
func (b *builder) create(name string, write func(io.Writer) error) error {
	f, err := os.OpenFile(b.path(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("storing the kernel: %w", err)
	}
	buf := bufio.NewWriterSize(f, 1<<20)
	if err := errors.Join(write(stopper{b.ctx, buf}), buf.Flush(), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing the kernel's %s: %w", name, err)
	}
	return nil
}

// stopper is a Writer that fails when its context ends, so that long copies end.
type stopper struct {
	ctx context.Context
	w   io.Writer
}

func (s stopper) Write(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.w.Write(p)
}

func hashFile(path string) (sum string, size int64, err error) {
	f, err := regular.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	size, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), size, err
}

// mapFile maps a file of banger's, which nobody truncates, to search it without a copy.
func mapFile(path string) (data []byte, unmap func(), err error) {
	f, err := regular.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the kernel: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, fmt.Errorf("reading the kernel: %w", err)
	}
	if info.Size() == 0 {
		return nil, nil, fault.New(fault.Invalid, "the kernel is empty")
	}
	data, err = unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return nil, nil, fmt.Errorf("mapping the kernel: %w", err)
	}
	return data, func() { unix.Munmap(data) }, nil
}
