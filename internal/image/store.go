// Package image keeps images: root filesystems as read-only ext4 files, made from registry images, archives, folders and Debian
// packages.
//
// # The cache describes itself
//
// All facts lie beside the data, so the folder can be copied or hard-linked into another BANGER_HOME, and two daemons can share it:
//
//	images/<id>/rootfs.ext4    the file system
//	images/<id>/image.json     what it is
//	images/names/<name>        the id that a full name (see Ref) means; the name is escaped as in a URL's path
//	images/tmp/                what is being made
//	images/lock                the locks between processes; empty
//	blobs/sha256/<digest>      layers as they came from registries
//	blobs/tmp/
//
// An image appears by one rename of a complete, synced folder and is never changed after that; a name is replaced by one rename too.
// A crash leaves folders in tmp, which Open and Prune remove when nobody holds their lock.
//
// # Strangers
//
// Archives are hostile input. Nothing is unpacked on the host: layers are merged in memory (tree) and written into a file system by
// a writer that reads none. Every size is bounded (Limits).
//
// Lock order: a lock on a blob or an image, then the global lock.
package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
)

// Options are what a Store may be told besides its folders. The zero value works.
type Options struct {
	Limits    Limits
	Keychain  authn.Keychain    // credentials for registries; docker's configuration by default
	Transport http.RoundTripper // to registries; one with deadlines and the environment's proxies by default
}

// Store is the images of one cache. It is safe for concurrent use, also by several processes.
type Store struct {
	dir, blobs string
	log        *slog.Logger
	opts       Options
	locks      locks
	flights    flights
}

// Files of a cache; see the package comment.
const (
	rootfsFile = "rootfs.ext4"
	recordFile = "image.json"
	namesDir   = "names"
	lockFile   = "lock"
)

// lockTimeout bounds waiting for the global lock where a caller has no context: it is only ever held for some renames.
const lockTimeout = 30 * time.Second

// recordVersion is the form of image.json. A record of another version is not read.
const recordVersion = 1

// record is image.json.
type record struct {
	Version int         `json:"version"`
	Image   model.Image `json:"image"`           // without Names and Path, which other files tell
	Blobs   []string    `json:"blobs,omitempty"` // sha256 in hex of the layers in the blob cache that it was made from
}

// Open makes the folders that are missing, removes what dead processes have left in them, and returns the store in them.
func Open(dir, blobs string, log *slog.Logger, opts Options) (*Store, error) {
	opts.Limits = opts.Limits.withDefaults()
	if opts.Keychain == nil {
		opts.Keychain = authn.DefaultKeychain
	}
	if opts.Transport == nil {
		opts.Transport = newTransport()
	}
	s := &Store{dir: dir, blobs: blobs, log: log.With("component", "image"), opts: opts, locks: locks{filepath.Join(dir, lockFile)}}
	for _, d := range []string{filepath.Join(dir, tempDir), filepath.Join(dir, namesDir), filepath.Join(blobs, tempDir), filepath.Join(blobs, "sha256")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("making the image cache: %w", disk.NoSpace(err, d))
		}
	}
	unlock, err := s.lockGlobal()
	if err != nil {
		return nil, fmt.Errorf("opening the image cache: %w", err)
	}
	defer unlock()
	for _, root := range []string{dir, blobs} {
		if _, err := s.sweepLocked(root); err != nil {
			s.log.Warn("cleaning up the image cache", "path", root, "error", err) // it costs room and nothing else
		}
	}
	return s, nil
}

func (s *Store) lockGlobal() (func(), error) {
	ctx, cancel := context.WithTimeout(context.Background(), lockTimeout)
	defer cancel()
	return s.locks.lock(ctx, global)
}

// List returns all images, the newest first. One whose record cannot be read is logged and left out.
func (s *Store) List() ([]model.Image, error) {
	dirs, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	names, err := s.names()
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
			if !errors.Is(err, fs.ErrNotExist) { // deleted this moment
				s.log.Warn("an image cannot be read", "image", d.Name(), "error", err)
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

// Get finds an image by a name in any form, an id, or the start of one that no other image's id has (at least 3 digits). A name goes
// before an id. It returns fault.NotFound when there is none.
func (s *Store) Get(ref string) (model.Image, error) {
	names, err := s.names()
	if err != nil {
		return model.Image{}, err
	}
	parsed, perr := Parse(ref)
	id, ok := names[parsed.Name]
	if perr != nil || !ok {
		if id, err = s.byPrefix(ref, perr); err != nil {
			return model.Image{}, err
		}
	}
	r, err := s.read(id)
	if errors.Is(err, fs.ErrNotExist) {
		return model.Image{}, notFound(ref)
	}
	if err != nil {
		return model.Image{}, fmt.Errorf("reading image %s: %w", ref, err)
	}
	return s.finish(r, names), nil
}

// byPrefix finds the id that starts with what ref says; parseErr is why ref is no name, if it is none.
func (s *Store) byPrefix(ref string, parseErr error) (string, error) {
	prefix, ok := idPrefix(ref)
	if !ok {
		return "", cmpErr(parseErr, notFound(ref))
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
	return "", invalid("%q is the start of %d images' ids", ref, len(found))
}

func notFound(ref string) error {
	return fault.New(fault.NotFound, "there is no image %q here", ref).
		WithHint("banger image list shows what there is; banger image pull %s gets it.", ref)
}

// read reads the record of an image.
func (s *Store) read(id string) (record, error) {
	f, err := os.Open(filepath.Join(s.dir, id, recordFile))
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
		return record{}, fmt.Errorf("%s: it is of version %d and image %q; expected version %d", f.Name(), r.Version, r.Image.ID, recordVersion)
	}
	return r, nil
}

// finish fills in what the record does not say.
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

// names reads all names and the ids that they mean.
func (s *Store) names() (map[string]string, error) {
	files, err := os.ReadDir(filepath.Join(s.dir, namesDir))
	if err != nil {
		return nil, fmt.Errorf("listing the names of images: %w", err)
	}
	names := make(map[string]string, len(files))
	for _, f := range files {
		name, err := url.PathUnescape(f.Name())
		if err != nil || strings.HasPrefix(f.Name(), disk.TempPrefix) {
			continue
		}
		data, err := os.ReadFile(filepath.Join(s.dir, namesDir, f.Name()))
		if err != nil {
			continue // deleted this moment
		}
		if id := strings.TrimSpace(string(data)); isID(id) {
			names[name] = id
		}
	}
	return names, nil
}

func (s *Store) nameFile(name string) string {
	return filepath.Join(s.dir, namesDir, url.PathEscape(name))
}
