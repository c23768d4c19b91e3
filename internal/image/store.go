// Package image keeps images: root filesystems as read-only ext4 files. It makes them from registry
// images, archives, directories and Debian packages. docs/internals/images.md explains how.
//
// # The cache describes itself
//
// All facts lie beside the data. So the directory can be copied or hard-linked to another
// BANGER_HOME, and two daemons can share it:
//
//	images/<id>/rootfs.ext4    the file system
//	images/<id>/image.json     its description
//	images/<id>/template.json  the settings of its templates; missing until one is set
//	images/names/<name>        the id of a full name (see Ref); the name is escaped as in a URL
//	images/tmp/                images that are being made
//	images/lock                the locks between processes; empty
//	blobs/sha256/<digest>      layers as they came from registries
//	blobs/tmp/
//
// An image appears by one rename of a complete, synced directory. Only template.json changes
// later. A name also
// changes by one rename. A crash leaves directories in tmp. Open and Prune remove those whose lock
// is free.
//
// # Hostile input
//
// Archives are hostile. The host unpacks nothing: it merges layers in memory (tree), and writes a
// file system with a writer that reads none. Every size is bounded (Limits).
//
// Lock order: a lock on a blob or an image, then the global lock.
package image

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/image/rootfs"
	"banger/internal/model"
	"banger/internal/regular"
)

// Limits bound what an image may use on this host.
type Limits = rootfs.Limits

// Options are the options of a Store. The zero value works.
type Options struct {
	Limits   Limits
	Keychain authn.Keychain // for registries; by default docker's
	// Transport connects to registries. The default has deadlines and uses the environment's
	// proxies.
	Transport http.RoundTripper
	// Room ends what writes for long if the host lacks space. Nil: there is always room.
	Room func() error
}

// Store is the images of one cache. It is safe for concurrent use, also by several processes.
type Store struct {
	dir, blobs string
	names      names
	log        *slog.Logger
	opts       Options
	locks      locks
	flights    flights
}

// Names in a cache; see the package comment.
const (
	rootfsFile = "rootfs.ext4"
	recordFile = "image.json"
	namesDir   = "names"
	lockFile   = "lock"
)

// recordVersion is the version of image.json. A record of another version is not read.
const recordVersion = 1

// record is image.json.
type record struct {
	Version int         `json:"version"`
	Image   model.Image `json:"image"` // without Names and Path
	// Blobs are the sha256, in hex, of the image's layers in the blob cache.
	Blobs []string `json:"blobs,omitempty"`
}

// Open returns the store in the directories. It makes missing ones, and removes what dead processes
// left.
func Open(dir, blobs string, log *slog.Logger, opts Options) (*Store, error) {
	opts.Limits = opts.Limits.WithDefaults()
	if opts.Keychain == nil {
		opts.Keychain = authn.DefaultKeychain
	}
	if opts.Transport == nil {
		opts.Transport = newTransport()
	}
	s := &Store{
		dir: dir, blobs: blobs, names: names(filepath.Join(dir, namesDir)), log: log.With("component", "image"), opts: opts, locks: locks{filepath.Join(dir, lockFile)},
	}
	for _, d := range []string{
		filepath.Join(dir, tempDir), filepath.Join(dir, namesDir), filepath.Join(blobs, tempDir), filepath.Join(blobs, "sha256"),
	} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("making the image cache: %w", disk.NoSpace(err, d))
		}
	}
	unlock, err := s.locks.lockGlobal()
	if err != nil {
		return nil, fmt.Errorf("opening the image cache: %w", err)
	}
	defer unlock()
	for _, root := range []string{dir, blobs} {
		if _, err := s.locks.sweepLocked(root, s.log); err != nil {
			// Leftovers only use space.
			s.log.Warn("cleaning up the image cache", "path", root, "error", err)
		}
	}
	return s, nil
}

// List returns all images, the newest first. It logs and skips an image with an unreadable record.
func (s *Store) List() ([]model.Image, error) {
	dirs, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	names, err := s.names.all()
	if err != nil {
		return nil, err
	}
	var images []model.Image
	for _, d := range dirs {
		if !isID(d.Name()) {
			continue
		}
		r, err := s.read(d.Name())
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) { // deleted meanwhile
				s.log.Warn("skipping an unreadable image", "image", d.Name(), "error", err)
			}
			continue
		}
		images = append(images, s.finish(r, names))
	}
	slices.SortFunc(images, func(a, b model.Image) int {
		return 2*b.Created.Compare(a.Created) + strings.Compare(a.ID, b.ID)
	})
	return images, nil
}

// Get returns the image that a person's ref means: an id, a name in any form, or a unique beginning
// of an id (at least 3 digits). A ref that reads as an id means a name only if it is a
// model.OldName. It returns fault.NotFound if there is none.
func (s *Store) Get(ref string) (model.Image, error) {
	names, err := s.names.all()
	if err != nil {
		return model.Image{}, err
	}
	parsed, perr := Parse(ref)
	id, ok := names[parsed.Name]
	if perr != nil || !ok || IDLike(ref) {
		old := id
		id, err = s.byPrefix(ref, perr)
		if ok && model.OldName(ref) && fault.KindOf(err) == fault.NotFound {
			id, err = old, nil
		}
		if err != nil {
			return model.Image{}, err
		}
	}
	return s.load(id, ref, names)
}

// ByID returns the image with exactly this id: no name and no beginning of an id counts.
func (s *Store) ByID(id string) (model.Image, error) {
	if !isID(id) {
		return model.Image{}, notFound(id)
	}
	names, err := s.names.all()
	if err != nil {
		return model.Image{}, err
	}
	return s.load(id, short(id), names)
}

// load reads the image with an id, which errors call ref.
func (s *Store) load(id, ref string, names map[string]string) (model.Image, error) {
	r, err := s.read(id)
	if errors.Is(err, fs.ErrNotExist) {
		return model.Image{}, notFound(ref)
	}
	if err != nil {
		return model.Image{}, fmt.Errorf("reading image %s: %w", ref, err)
	}
	return s.finish(r, names), nil
}

// byPrefix finds the id that begins with ref. parseErr is why ref is not a name, or nil.
func (s *Store) byPrefix(ref string, parseErr error) (string, error) {
	prefix, ok := idPrefix(ref)
	if !ok {
		return "", cmp.Or(parseErr, notFound(ref))
	}
	dirs, err := os.ReadDir(s.dir)
	if err != nil {
		return "", fmt.Errorf("looking for image %s: %w", ref, err)
	}
	var found []string
	for _, d := range dirs {
		if isID(d.Name()) && strings.HasPrefix(d.Name(), prefix) {
			found = append(found, d.Name())
		}
	}
	switch len(found) {
	case 0:
		return "", notFound(ref)
	case 1:
		return found[0], nil
	}
	return "", invalid("the ids of %[2]d images begin with %[1]q", ref, len(found))
}

func notFound(ref string) error {
	missing := fault.New(fault.NotFound, "there is no image %q", ref)
	if IDLike(ref) || isID(ref) {
		return missing.WithHint("`banger image list` prints the images.")
	}
	return missing.
		WithHint("`banger image list` prints the images; `banger image pull %s` gets this one.", ref)
}

// read reads the record of an image.
func (s *Store) read(id string) (record, error) {
	f, err := regular.Open(filepath.Join(s.dir, id, recordFile))
	if err != nil {
		return record{}, err
	}
	defer f.Close()
	data, err := readAll(f, f.Name())
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return record{}, fmt.Errorf("%s: %w", f.Name(), err)
	}
	if r.Version != recordVersion || r.Image.ID != id {
		return record{}, fmt.Errorf("%s: it is of version %d and image %q; expected version %d",
			f.Name(), r.Version, r.Image.ID, recordVersion)
	}
	return r, nil
}

// finish fills in what the record lacks.
func (s *Store) finish(r record, names map[string]string) model.Image {
	img := r.Image
	img.Path = filepath.Join(s.dir, img.ID, rootfsFile)
	img.Names = []string{}
	for name, id := range names {
		if id == img.ID {
			img.Names = append(img.Names, name)
		}
	}
	slices.Sort(img.Names)
	return img
}
