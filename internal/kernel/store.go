// Package kernel keeps guest kernels. It gets them from the distribution or from a file, extracts
// what a VMM boots, checks that guests can run on them, and collects the modules that a guest loads
// first.
//
// # On disk
//
//	<dir>/<id>/vmlinuz       the compressed image, if the kernel came compressed
//	<dir>/<id>/vmlinux       the ELF kernel
//	<dir>/<id>/config        its build configuration, if known
//	<dir>/<id>/modules.cpio  a newc archive of /modules/NNN-name.ko, in load order
//	<dir>/<id>/kernel.json   the record
//	<dir>/names/<name>       one line: the id of the kernel
//	<dir>/.tmp-*             work in progress, locked with flock(2) during the work
//
// A kernel appears by one rename of a complete, synced directory, and never changes. A name changes
// by one rename of a synced file. So a crash leaves only garbage, which Open and Prune remove.
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

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/regular"
)

// recipe is the version of the way in which kernels are made. A pull makes a kernel of an older
// recipe again.
const recipe = 1

const (
	namesDir  = "names"
	tmpPrefix = ".tmp-"
	maxRecord = 1 << 20
	minPrefix = 4 // the shortest prefix of an id
)

var (
	idPattern   = regexp.MustCompile(`^[0-9a-f]{64}$`)
	namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
)

// Store is a directory of kernels. Its methods are safe for concurrent use by one process. Only one
// process at a time may open it for changes.
type Store struct {
	dir  string
	log  *slog.Logger
	busy chan struct{} // holds one token during a change

	// Room ends a pull if the host lacks space. Nil: there is always room. It is set before use.
	Room func() error
}

// record is kernel.json. It has no paths and no names, because its place determines them.
type record struct {
	model.Kernel
	Recipe int `json:"recipe"`
}

// Open returns the store in dir. It makes the directory if it is missing, and removes what a crash
// left.
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

// lock waits until no other goroutine changes the store.
func (s *Store) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case s.busy <- struct{}{}:
		return func() { <-s.busy }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for another operation on kernels: %w", context.Cause(ctx))
	}
}

// List returns all kernels, the newest first. It logs and skips damaged ones.
func (s *Store) List() ([]model.Kernel, error) {
	records, err := s.records()
	kernels := make([]model.Kernel, len(records))
	for i, r := range records {
		kernels[i] = r.Kernel
	}
	return kernels, err
}

// Get returns the kernel that a person's ref means: an id, a name, or a unique beginning of an id.
// A ref that reads as an id never means a name. A name that was given comes first.
func (s *Store) Get(ref string) (model.Kernel, error) {
	r, err := s.get(ref)
	return r.Kernel, err
}

// ByID returns the kernel with exactly this id: no name and no beginning of an id counts.
func (s *Store) ByID(id string) (model.Kernel, error) {
	names, err := s.names()
	if err != nil {
		return model.Kernel{}, err
	}
	if !idPattern.MatchString(id) {
		return model.Kernel{}, notFound(id)
	}
	r, err := s.load(id)
	if errors.Is(err, fs.ErrNotExist) {
		return model.Kernel{}, notFound(id)
	}
	if err != nil {
		return model.Kernel{}, fmt.Errorf("reading kernel %.12s: %w", id, err)
	}
	r.Names = append([]string{}, names[id]...)
	return r.Kernel, nil
}

func (s *Store) get(ref string) (record, error) {
	records, err := s.records()
	if err != nil {
		return record{}, err
	}
	var found, old []record
	for _, r := range records {
		if model.OldName(ref) && slices.Contains(r.Names, ref) {
			old = append(old, r)
		}
		if r.ID == ref || !model.IDLike(ref) && slices.Contains(r.Names, ref) {
			return namedFirst(r, ref), nil
		}
		if len(ref) >= minPrefix && strings.HasPrefix(r.ID, ref) {
			found = append(found, r)
		}
	}
	if len(found) == 0 {
		found = old
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return record{}, notFound(ref)
	}
	return record{}, fault.New(fault.Invalid, "the ids of %[2]d kernels begin with %[1]q", ref, len(found)).
		WithHint("Give more of the id, or a name.")
}

// namedFirst moves a name to the front, so that the caller prints a name that the user gave.
func namedFirst(r record, name string) record {
	if i := slices.Index(r.Names, name); i > 0 {
		r.Names = slices.Insert(slices.Delete(r.Names, i, i+1), 0, name)
	}
	return r
}

func notFound(ref string) error {
	return fault.New(fault.NotFound, "there is no kernel %q", ref).
		WithHint("`banger kernel list` prints the kernels; `banger kernel pull debian` gets one.")
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
		if errors.Is(err, fs.ErrNotExist) { // deleted meanwhile
			continue
		}
		if err != nil {
			s.log.Warn("skipping a damaged kernel", "id", e.Name(), "error", err)
			continue
		}
		r.Names = append([]string{}, names[r.ID]...) // never nil, so that JSON has a list
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

// load reads one record and fills in what its place determines.
func (s *Store) load(id string) (record, error) {
	dir := filepath.Join(s.dir, id)
	data, err := regular.Read(filepath.Join(dir, recordFile), maxRecord)
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return record{}, fmt.Errorf("reading the record: %w", err)
	}
	if r.ID != id {
		return record{}, fmt.Errorf("the record belongs to kernel %.80q", r.ID)
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
		data, err := regular.Read(filepath.Join(s.dir, namesDir, e.Name()), 256)
		if err != nil {
			s.log.Warn("skipping a damaged name", "name", e.Name(), "error", err)
			continue
		}
		id := strings.TrimSpace(string(data))
		names[id] = append(names[id], e.Name())
	}
	return names, nil
}

// CheckName returns why s cannot be a new name of a kernel, or nil.
func CheckName(s string) error {
	if model.IDLike(s) {
		return fault.New(fault.Invalid, "%.80q cannot be a kernel's name: it reads as an id, "+
			"because it has only hexadecimal digits, 8 or more", s)
	}
	if !namePattern.MatchString(s) {
		return fault.New(fault.Invalid,
			"%q cannot be a kernel's name: lower-case letters, digits, '.', '_' and '-', at most 63", s)
	}
	return nil
}

// setName makes name refer to the kernel.
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
	return disk.SyncDir(dir)
}
