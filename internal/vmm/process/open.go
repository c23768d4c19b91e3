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

// HasOpen reports whether the process has the file open that a path leads to. If the process has
// another file open that has, or had, the same name, other is a path by which that file can be
// read. If the process is ending, the error is fault.NotFound.
func (p *Process) HasOpen(path string) (is bool, other string, err error) {
	want, err := os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, "", fmt.Errorf("looking at an open file: %w", err)
	}
	dir := filepath.Join("/proc", strconv.Itoa(p.id.PID), "fd")
	links, err := os.ReadDir(dir)
	for _, link := range links {
		open := filepath.Join(dir, link.Name())
		got, err := os.Stat(open)
		if err != nil {
			continue
		}
		if want != nil && os.SameFile(want, got) {
			return true, "", nil
		}
		name, err := os.Readlink(open)
		if err == nil && got.Mode().IsRegular() && filepath.Base(strings.TrimSuffix(name, deletedMark)) == filepath.Base(path) {
			other = open
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
		return false, "", fault.New(fault.NotFound, "looking at the open files of process %d: it has none", p.id.PID)
	}
	return false, other, nil
}

// deletedMark ends the kernel's name of an open file that has lost its name (d_path).
const deletedMark = " (deleted)"
