package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"banger/internal/fault"
)

// Others returns the paths that lead to files which the process does not have open, or to none. A
// value is a path to a file of the same name that it has open instead, or "". The error names paths
// of which nobody can tell. If the process is ending, it is fault.NotFound.
func (p *Process) Others(paths ...string) (others map[string]string, err error) {
	want, errs := map[string]fs.FileInfo{}, []error(nil)
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("looking at an open file: %w", err))
			continue
		}
		want[path] = info // nil if there is none
	}
	dir := filepath.Join("/proc", strconv.Itoa(p.id.PID), "fd")
	links, err := os.ReadDir(dir)
	has, named := map[string]bool{}, map[string]string{}
	for _, link := range links {
		open := filepath.Join(dir, link.Name())
		got, err := os.Stat(open)
		if err != nil {
			continue
		}
		name := ""
		if text, err := os.Readlink(open); err == nil && got.Mode().IsRegular() {
			name = filepath.Base(strings.TrimSuffix(text, deletedMark))
		}
		for path, info := range want {
			if info != nil && os.SameFile(info, got) {
				has[path] = true
			} else if name == filepath.Base(path) {
				named[path] = open
			}
		}
	}
	// A process that ends has lost all of its files at once: it does not lack this one only.
	_, open := os.Stat(filepath.Join(dir, "0"))
	select {
	case <-p.done:
		open = fs.ErrNotExist
	default:
	}
	if err != nil || open != nil {
		return nil, fault.New(fault.NotFound, "looking at the open files of process %d: it has none", p.id.PID)
	}
	others = map[string]string{}
	for path := range want {
		if !has[path] {
			others[path] = named[path]
		}
	}
	return others, errors.Join(errs...)
}

// deletedMark ends the kernel's name of an open file that has lost its name (d_path).
const deletedMark = " (deleted)"
