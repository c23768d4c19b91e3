package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"banger/internal/disk"
	"banger/internal/model"
)

// Usage returns the space of the images and their layers. What no VM needs is reclaimable: Prune
// with all removes it.
func (s *Store) Usage(inUse InUse) ([]model.UsageRow, error) {
	images, err := s.List()
	if err != nil {
		return nil, err
	}
	var rows []model.UsageRow
	kept := map[string]bool{} // layers that a prune keeps
	for _, img := range images {
		space, err := disk.SpaceOf(filepath.Join(s.dir, img.ID))
		if err != nil {
			return nil, err
		}
		row := space.Row(model.UsageImage, label(img))
		if len(inUse(img.ID)) == 0 {
			row.Reclaimable = row.Own
		} else if err := s.keepLayers(img.ID, kept); err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	layers, err := layerUsage(filepath.Join(s.blobs, "sha256"), kept)
	return append(rows, layers), err
}

func label(img model.Image) string {
	if len(img.Names) > 0 {
		return img.Names[0]
	}
	return short(img.ID)
}

// keepLayers adds the layers of an image.
func (s *Store) keepLayers(id string, kept map[string]bool) error {
	r, err := s.read(id)
	if errors.Is(err, fs.ErrNotExist) { // deleted meanwhile
		return nil
	}
	for _, b := range r.Blobs {
		kept[b] = true
	}
	return err
}

func layerUsage(dir string, kept map[string]bool) (model.UsageRow, error) {
	sum := model.UsageRow{Kind: model.UsageCache, Name: "image layers"}
	blobs, err := os.ReadDir(dir)
	if err != nil {
		return sum, fmt.Errorf("listing layers: %w", err)
	}
	for _, b := range blobs {
		space, err := disk.SpaceOf(filepath.Join(dir, b.Name()))
		if err != nil {
			return sum, err
		}
		row := space.Row("", "")
		if !kept[b.Name()] {
			row.Reclaimable = row.Own
		}
		sum.Add(row)
	}
	return sum, nil
}
