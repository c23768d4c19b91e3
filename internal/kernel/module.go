package kernel

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"

	"banger/internal/fault"
	"banger/internal/regular"
)

const (
	maxModule      = 64 << 20
	maxModuleFiles = 100_000 // a distribution's full kernel has about 5,000
	maxBuiltin     = 4 << 20
)

// tree is the content of a /lib/modules/<version> directory, from any source.
type tree struct {
	version string // the directory's name
	// builtin are the modules inside the kernel; nil if the tree does not list them.
	builtin map[string]bool
	modules map[string]moduleFile
}

// moduleFile is one module as stored, perhaps compressed.
type moduleFile struct {
	file string // with the ending: "virtio_blk.ko.xz"
	open func() (io.ReadCloser, error)
}

// moduleEndings are the endings of module files.
var moduleEndings = []string{".ko", ".ko.gz", ".ko.xz", ".ko.zst"}

// moduleName returns a module's name as the kernel uses it. File names may have - for _.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// isModule splits a module's file name.
func isModule(file string) (name string, ok bool) {
	for _, ending := range moduleEndings {
		if stem, found := strings.CutSuffix(file, ending); found && stem != "" {
			return moduleName(stem), true
		}
	}
	return "", false
}

// read returns the uncompressed module.
func (m moduleFile) read() (module []byte, err error) {
	f, err := m.open()
	if err != nil {
		return nil, fmt.Errorf("opening module %s: %w", m.file, err)
	}
	defer f.Close()
	var r io.Reader = bufio.NewReader(f)
	switch path.Ext(m.file) {
	case ".gz":
		r, err = gzip.NewReader(r)
	case ".xz":
		r, err = xz.NewReader(r, maxDict)
	case ".zst":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxDict)); err == nil {
			defer z.Close()
		}
		r = z
	}
	var out bytes.Buffer
	if err == nil {
		err = copyBounded(&out, r, maxModule)
	}
	if err != nil {
		return nil, fmt.Errorf("reading module %s: %w", m.file, err)
	}
	return out.Bytes(), nil
}

// parseBuiltin reads modules.builtin, which has paths such as "kernel/drivers/virtio/virtio.ko"
// (Documentation/kbuild/kbuild.rst).
func parseBuiltin(r io.Reader) (map[string]bool, error) {
	names := map[string]bool{}
	lines := bufio.NewScanner(io.LimitReader(r, maxBuiltin))
	for lines.Scan() {
		if name, ok := isModule(path.Base(strings.TrimSpace(lines.Text()))); ok {
			names[name] = true
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fault.New(fault.Invalid, "reading modules.builtin: %w", err)
	}
	return names, nil
}

// dirTree reads a /lib/modules/<version> directory of the host. It follows no symbolic links.
func dirTree(dir string) (*tree, error) {
	abs, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, fault.New(fault.NotFound, "opening the modules' directory: %w", err)
	}
	t := &tree{version: filepath.Base(abs), modules: map[string]moduleFile{}}
	seen := 0
	err = filepath.WalkDir(abs, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if seen++; seen > maxModuleFiles {
			return fault.New(fault.Invalid, "more than %d files", maxModuleFiles)
		}
		if name, ok := isModule(d.Name()); ok {
			t.modules[name] = moduleFile{file: d.Name(), open: func() (io.ReadCloser, error) { return regular.Open(p) }}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the modules' directory %s: %w", dir, err)
	}
	f, err := regular.Open(filepath.Join(abs, "modules.builtin"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if len(t.modules) == 0 {
			return nil, fault.New(fault.Invalid, "%s holds neither modules nor modules.builtin", dir).
				WithHint("Give the directory of one kernel version, such as /lib/modules/6.1.0-43-cloud-amd64.")
		}
		return t, nil
	case err != nil:
		return nil, fmt.Errorf("reading the modules' directory: %w", err)
	}
	defer f.Close()
	t.builtin, err = parseBuiltin(f)
	return t, err
}
