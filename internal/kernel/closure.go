package kernel

import (
	"bytes"
	"fmt"
	"io"

	"banger/internal/fault"
	"banger/internal/initramfs"
)

// Bounds of a kernel's module archive.
const (
	maxLoaded      = 200 // names in the archive have three digits
	maxLoadedBytes = 256 << 20
)

// loadedModule is a module in load order.
type loadedModule struct {
	name string
	data []byte
}

// closure reads the named modules and all their dependencies, dependencies first. If the tree has
// no list of builtin modules, a missing dependency counts as builtin.
func (t *tree) closure(names []string, kernelVersion string) ([]loadedModule, error) {
	c := collector{tree: t, version: kernelVersion, state: map[string]bool{}}
	for _, name := range names {
		if err := c.add(name, ""); err != nil {
			return nil, err
		}
	}
	return c.out, nil
}

type collector struct {
	tree    *tree
	version string
	// state is true once a module is in out, and false while its dependencies are read.
	state map[string]bool
	out   []loadedModule
	bytes int
}

func (c *collector) add(name, neededBy string) error {
	if done, seen := c.state[name]; seen {
		if !done {
			return fault.New(fault.Invalid, "module %s depends on itself, through %s", name, neededBy)
		}
		return nil
	}
	file, ok := c.tree.modules[name]
	if !ok {
		if c.tree.builtin == nil || c.tree.builtin[name] {
			return nil
		}
		return fault.New(fault.Unsupported, "module %s, which %s depends on, is missing", name, neededBy)
	}
	if len(c.state) >= maxLoaded {
		return fault.New(fault.Invalid, "more than %d modules to load", maxLoaded)
	}
	c.state[name] = false
	data, err := file.read()
	if err != nil {
		return err
	}
	info, err := parseModinfo(data)
	if err != nil {
		return fmt.Errorf("reading module %s: %w", file.file, err)
	}
	if info.version != c.version {
		return fault.New(fault.Invalid, "module %s is for kernel %q, and this is %s",
			file.file, info.version, c.version).
			WithHint("A kernel loads only the modules that were built with it.")
	}
	for _, d := range info.depends {
		if err := c.add(d, name); err != nil {
			return err
		}
	}
	if c.bytes += len(data); c.bytes > maxLoadedBytes {
		return fault.New(fault.Invalid, "more than %d bytes of modules to load", maxLoadedBytes)
	}
	c.state[name] = true
	c.out = append(c.out, loadedModule{name, data})
	return nil
}

// writeModules writes the archive for the guest's kernel: /modules/NNN-name.ko, in load order.
func writeModules(w io.Writer, modules []loadedModule) error {
	a := initramfs.NewWriter(w)
	a.Dir("modules", 0o755)
	for i, m := range modules {
		a.File(fmt.Sprintf("modules/%03d-%s.ko", i, m.name), 0o644, int64(len(m.data)), bytes.NewReader(m.data))
	}
	return a.Close()
}
