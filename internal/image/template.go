package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"banger/internal/disk"
	"banger/internal/model"
	"banger/internal/regular"
)

// templateFile has the settings of an image's templates. It is the one file in an image's directory
// that changes, by a rename.
const templateFile = "template.json"

// Templates keeps what is known of images' templates, beside the images.
type Templates struct{ Store *Store }

// Template returns what is known of the templates of the image with an id.
func (n Templates) Template(id string) (model.ImageTemplate, error) {
	s, t := n.Store, model.ImageTemplate{Mode: model.TemplateAuto}
	if !isID(id) {
		return t, notFound(id)
	}
	f, err := regular.Open(filepath.Join(s.dir, id, templateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return t, err
	}
	defer f.Close()
	data, err := readAll(f, f.Name())
	if err == nil {
		err = json.Unmarshal(data, &t)
	}
	if err != nil {
		return t, fmt.Errorf("reading the template settings of image %s: %w", short(id), err)
	}
	return t, nil
}

// SetTemplate replaces what is known of an image's templates.
func (n Templates) SetTemplate(ctx context.Context, id string, t model.ImageTemplate) error {
	s := n.Store
	unlock, err := s.locks.lock(ctx, global)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := s.read(id); err != nil { // deleted meanwhile
		return notFound(id)
	}
	t.Keys = nil
	data, err := json.Marshal(t)
	if err == nil {
		err = writeFile(filepath.Join(s.dir, id, templateFile), string(data)+"\n")
	}
	if err != nil {
		return fmt.Errorf("storing the template settings of image %s: %w", short(id), disk.NoSpace(err, s.dir))
	}
	return nil
}
