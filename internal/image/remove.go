package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
)

// InUse returns the users of the image with an id: names of VMs, and "snapshot NAME".
type InUse func(id string) []string

// Removal is what Delete and Prune removed.
type Removal struct {
	Names  []string      `json:"names"`  // removed names
	Images []model.Image `json:"images"` // removed images
	Blobs  int           `json:"blobs"`  // layers of no image
	Freed  model.Bytes   `json:"freed"`  // freed on the host's file system
}

// Delete removes a name, and with the last name the image. For an id it removes the image with all
// names. An image in use keeps its last name and fails with fault.WrongState.
func (s *Store) Delete(ref string, inUse InUse) (Removal, error) {
	unlock, err := s.locks.lockGlobal()
	if err != nil {
		return Removal{}, err
	}
	defer unlock()
	img, err := s.Get(ref)
	if err != nil {
		return Removal{}, err
	}
	if parsed, err := Parse(ref); err == nil && len(img.Names) > 1 && slices.Contains(img.Names, parsed.Name) {
		if err := os.Remove(s.names.file(parsed.Name)); err != nil {
			return Removal{}, fmt.Errorf("deleting the name %s: %w", parsed.Name, err)
		}
		return Removal{Names: []string{parsed.Name}}, nil
	}
	if users := inUse(img.ID); len(users) > 0 {
		return Removal{}, fault.New(fault.WrongState, "image %s is used by %s", ref, strings.Join(users, ", ")).
			WithHint("Delete what uses it first.")
	}
	var removal Removal
	return removal, s.removeLocked(img, &removal)
}

// removeLocked removes an image's names, moves it to where a sweep finds it after a crash, and
// removes it.
func (s *Store) removeLocked(img model.Image, done *Removal) error {
	for _, name := range img.Names {
		if err := os.Remove(s.names.file(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("deleting the name %s: %w", name, err)
		}
		done.Names = append(done.Names, name)
	}
	_, allocated, _ := disk.Usage(img.Path) // only for the result
	gone := filepath.Join(s.dir, tempDir, "gone-"+img.ID)
	if err := errors.Join(os.RemoveAll(gone), os.Rename(filepath.Join(s.dir, img.ID), gone)); err != nil {
		return fmt.Errorf("deleting image %s: %w", short(img.ID), err)
	}
	done.Images = append(done.Images, img)
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("deleting image %s: %w", short(img.ID), err)
	}
	done.Freed += allocated
	return nil
}

// Prune removes images without names and VMs, layers of no image, and what dead processes left.
// With all, it removes every image without VMs.
func (s *Store) Prune(inUse InUse, all bool) (Removal, error) {
	unlock, err := s.locks.lockGlobal()
	if err != nil {
		return Removal{}, err
	}
	defer unlock()
	images, err := s.List()
	if err != nil {
		return Removal{}, err
	}
	var done Removal
	var errs []error
	for _, img := range images {
		if (all || len(img.Names) == 0) && len(inUse(img.ID)) == 0 {
			errs = append(errs, s.removeLocked(img, &done))
		}
	}
	errs = append(errs, s.pruneNamesLocked(&done), s.pruneBlobsLocked(&done))
	for _, root := range []string{s.dir, s.blobs} {
		_, err := s.locks.sweepLocked(root, s.log)
		errs = append(errs, err)
	}
	return done, errors.Join(errs...)
}

// pruneNamesLocked removes names of missing images.
func (s *Store) pruneNamesLocked(done *Removal) error {
	names, err := s.names.all()
	if err != nil {
		return err
	}
	var errs []error
	for name, id := range names {
		if _, err := os.Stat(filepath.Join(s.dir, id)); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.Remove(s.names.file(name)); err != nil {
			errs = append(errs, fmt.Errorf("deleting the name %s: %w", name, err))
			continue
		}
		done.Names = append(done.Names, name)
	}
	return errors.Join(errs...)
}

// pruneBlobsLocked removes the layers that no record names. If a record is unreadable, all layers
// stay. A running pull has its layers open, so it does not need their names.
func (s *Store) pruneBlobsLocked(done *Removal) error {
	needed := map[string]bool{}
	dirs, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("listing images: %w", err)
	}
	for _, d := range dirs {
		if !isID(d.Name()) {
			continue
		}
		r, err := s.read(d.Name())
		if err != nil {
			return fmt.Errorf("keeping all layers, because image %s cannot be read: %w", d.Name(), err)
		}
		for _, b := range r.Blobs {
			needed[b] = true
		}
	}
	blobs, err := os.ReadDir(filepath.Join(s.blobs, "sha256"))
	if err != nil {
		return fmt.Errorf("listing layers: %w", err)
	}
	var errs []error
	for _, b := range blobs {
		path := filepath.Join(s.blobs, "sha256", b.Name())
		if needed[b.Name()] {
			continue
		}
		_, allocated, _ := disk.Usage(path) // only for the result
		if err := os.Remove(path); err != nil {
			errs = append(errs, fmt.Errorf("deleting layer %s: %w", b.Name(), err))
			continue
		}
		done.Blobs++
		done.Freed += allocated
	}
	return errors.Join(errs...)
}
