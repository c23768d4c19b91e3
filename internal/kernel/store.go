// Package kernel keeps guest kernels: it gets them from the distribution or from a file, takes out what a VMM boots, checks that a guest
// can run on them, and collects the modules that a guest loads before it can do anything else.
//
// # On disk
//
//	<dir>/<id>/vmlinuz       the compressed image as it came, when it came compressed
//	<dir>/<id>/vmlinux       the ELF kernel
//	<dir>/<id>/config        its build configuration, when known
//	<dir>/<id>/modules.cpio  a newc archive: /modules/NNN-name.ko, to be loaded in the order of their names
//	<dir>/<id>/kernel.json   the record
//	<dir>/names/<name>       one line: the id that the name means
//	<dir>/.tmp-*             work in progress; locked by flock(2) while somebody is at it
//
// A kernel appears by one rename of a complete, synced folder and never changes after. A name changes by one rename of a synced
// file. So a crash leaves garbage only, which Open and Prune remove.
package kernel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"banger/internal/fault"
	"banger/internal/model"
)

// recipe counts the ways in which kernels were taken apart. A pull makes a kernel again that an older recipe made.
const recipe = 1

const (
	namesDir  = "names"
	tmpPrefix = ".tmp-"
	maxRecord = 1 << 20
	minPrefix = 4 // characters of an id that may stand for it
)

var (
	idPattern   = regexp.MustCompile(`^[0-9a-f]{64}$`)
	namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
)

// Store is a folder of kernels. Its methods are safe for concurrent use by one process; one process at a time may have it open
// for changes.
type Store struct {
	dir  string
	log  *slog.Logger
	busy chan struct{} // holds one token while somebody changes the store or makes a kernel
}

// record is kernel.json. The paths and names in it are empty: they follow from where it is.
type record struct {
	model.Kernel
	Recipe int `json:"recipe"`
}

// Open returns the store in dir, makes it if need be, and removes what a crash left behind.
func Open(dir string, log *slog.Logger) (*Store, error) {
	if err := os.MkdirAll(filepath.Join(dir, namesDir), 0o755); err != nil {
		return nil, fmt.Errorf("opening the kernel store: %w", err)
	}
	s := &Store{dir: dir, log: log.With("component", "kernel"), busy: make(chan struct{}, 1)}
	if err := s.sweep(); err != nil {
		s.log.Warn("removing leftovers", "error", err)
	}
	return s, nil
}

// lock waits until nobody else changes the store.
func (s *Store) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case s.busy <- struct{}{}:
		return func() { <-s.busy }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for other work on kernels: %w", context.Cause(ctx))
	}
}

// List returns all kernels, the newest first. Damaged ones are left out and logged.
func (s *Store) List() ([]model.Kernel, error) {
	records, err := s.records()
	kernels := make([]model.Kernel, len(records))
	for i, r := range records {
		kernels[i] = r.Kernel
	}
	return kernels, err
}

// Get returns the kernel that ref means: a name, an id, or the beginning of just one id.
func (s *Store) Get(ref string) (model.Kernel, error) {
	r, err := s.get(ref)
	return r.Kernel, err
}

func (s *Store) get(ref string) (record, error) {
	records, err := s.records()
	if err != nil {
		return record{}, err
	}
	var found []record
	for _, r := range records {
		if slices.Contains(r.Names, ref) || r.ID == ref {
			return r, nil
		}
		if len(ref) >= minPrefix && strings.HasPrefix(r.ID, ref) {
			found = append(found, r)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return record{}, fault.New(fault.NotFound, "there is no kernel %q", ref).
			WithHint("`banger kernel list` shows those that are here; `banger kernel pull debian` gets one.")
	}
	return record{}, fault.New(fault.Invalid, "%q is the beginning of the ids of %d kernels", ref, len(found)).
		WithHint("Give more of the id, or a name.")
}

// records reads the store.
func (s *Store) records() ([]record, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("listing kernels: %w", err)
	}
	names, err := s.names()
	if err != nil {
		return nil, err
	}
	var records []record
	for _, e := range entries {
		if !e.IsDir() || !idPattern.MatchString(e.Name()) {
			continue
		}
		r, err := s.load(e.Name())
		if errors.Is(err, fs.ErrNotExist) { // deleted since
			continue
		}
		if err != nil {
			s.log.Warn("a damaged kernel", "id", e.Name(), "error", err)
			continue
		}
		r.Names = append([]string{}, names[r.ID]...) // never nil: as JSON it is a list
		records = append(records, r)
	}
	slices.SortFunc(records, func(a, b record) int {
		if c := b.Created.Compare(a.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return records, nil
}

// load reads one record and fills in what follows from its place.
func (s *Store) load(id string) (record, error) {
	dir := filepath.Join(s.dir, id)
	data, err := readBounded(filepath.Join(dir, recordFile), maxRecord)
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return record{}, fmt.Errorf("reading the record: %w", err)
	}
	if r.ID != id {
		return record{}, fmt.Errorf("the record is of kernel %.80q", r.ID)
	}
	for file, path := range map[string]*string{vmlinuzFile: &r.Vmlinuz, vmlinuxFile: &r.Vmlinux, configFile: &r.Config, modulesFile: &r.Modules} {
		full := filepath.Join(dir, file)
		if _, err := os.Stat(full); err == nil {
			*path = full
		}
	}
	if r.Vmlinux == "" {
		return record{}, errors.New("it has no vmlinux")
	}
	return r, nil
}

// names reads the names of every id, sorted.
func (s *Store) names() (map[string][]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, namesDir))
	if err != nil {
		return nil, fmt.Errorf("listing the names of kernels: %w", err)
	}
	names := map[string][]string{}
	for _, e := range entries { // sorted by name
		if !namePattern.MatchString(e.Name()) {
			continue
		}
		data, err := readBounded(filepath.Join(s.dir, namesDir, e.Name()), 256)
		if err != nil {
			s.log.Warn("a damaged name", "name", e.Name(), "error", err)
			continue
		}
		id := strings.TrimSpace(string(data))
		names[id] = append(names[id], e.Name())
	}
	return names, nil
}

// CheckName tells why s cannot be a kernel's name, or nil.
func CheckName(s string) error {
	if !namePattern.MatchString(s) || idPattern.MatchString(s) {
		return fault.New(fault.Invalid, "%q cannot be a kernel's name: lower-case letters, digits, '.', '_' and '-', at most 63", s)
	}
	return nil
}

// setName makes name mean the kernel.
func (s *Store) setName(name, id string) error {
	dir := filepath.Join(s.dir, namesDir)
	f, err := os.CreateTemp(dir, tmpPrefix)
	if err != nil {
		return fmt.Errorf("naming a kernel: %w", err)
	}
	_, err = io.WriteString(f, id+"\n")
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("naming a kernel %s: %w", name, err)
	}
	return syncDir(dir)
}

// readBounded reads a small file.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		return nil, fmt.Errorf("reading %s: more than %d bytes", path, limit)
	}
	return data, err
}
