package image

import (
	"context"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"

	"banger/internal/disk"
	"banger/internal/model"
)

// maxRefused bounds how many refused names of a file the notices report.
const maxRefused = 8

// claim is a name that an image is to get.
type claim struct {
	name  string   // full; "" for none
	asked bool     // a person asked for it; otherwise a file suggests it
	more  []string // other names in the file, which the image does not get
}

// Tag gives an image a name. If another image has the name, the name moves.
func (s *Store) Tag(ctx context.Context, ref, name string) (model.Image, error) {
	parsed, err := parseTag(name)
	if err != nil {
		return model.Image{}, err
	}
	unlock, err := s.locks.lock(ctx, global)
	if err != nil {
		return model.Image{}, err
	}
	defer unlock()
	img, err := s.Get(ref)
	if err != nil {
		return model.Image{}, err
	}
	return s.tagLocked(img.ID, claim{name: parsed.Name, asked: true})
}

// parseTag is ParseNew for a name that no registry vouches for. So it has no digest.
func parseTag(s string) (Ref, error) {
	ref, err := ParseNew(s)
	if _, digest := ref.ref.(name.Digest); err == nil && digest {
		return Ref{}, invalid("image name %q has a digest, which only a registry can vouch for", clip(s)).
			WithHint("Choose another name, such as mine:v1.")
	}
	return ref, err
}

// tag gives a name to an existing image.
func (s *Store) tag(ctx context.Context, id string, c claim) (model.Image, error) {
	unlock, err := s.locks.lock(ctx, global)
	if err != nil {
		return model.Image{}, err
	}
	defer unlock()
	return s.tagLocked(id, c)
}

func (s *Store) tagLocked(id string, c claim) (model.Image, error) {
	r, err := s.read(id)
	if err != nil {
		return model.Image{}, fmt.Errorf("reading image %s: %w", short(id), err)
	}
	names, err := s.names.all()
	if err != nil {
		return model.Image{}, err
	}
	take, notices := c.judge(names, id)
	if take {
		if err := writeFile(s.names.file(c.name), id+"\n"); err != nil {
			return model.Image{}, fmt.Errorf("naming image %s %s: %w", short(id), c.name, disk.NoSpace(err, s.dir))
		}
		names[c.name] = id
	}
	img := namedFirst(s.finish(r, names), c.name)
	img.Notices = notices
	return img, nil
}

// judge decides whether the image with an id gets the name. A name out of a file is nobody's wish.
// So it takes nothing from another image, and it is none of banger's own names.
func (c claim) judge(names map[string]string, id string) (take bool, _ []model.Notice) {
	take, notices := c.judgeName(names, id)
	for i, name := range c.more {
		if i == maxRefused {
			notices = append(notices, model.Notice{Text: fmt.Sprintf("image %s does not get %d more names of the file", short(id), len(c.more)-i)})
			break
		}
		notice := model.Notice{Text: fmt.Sprintf("image %s does not get the name %q: a file gives one name only", short(id), clip(name))}
		if _, err := parseTag(name); err != nil {
			notice = model.Notice{
				Text: fmt.Sprintf("image %s does not get a name of the file: %v", short(id), err),
				Hint: fmt.Sprintf("To give it another name: banger image tag %s mine:v1", short(id)),
			}
		}
		notices = append(notices, notice)
	}
	return take, notices
}

func (c claim) judgeName(names map[string]string, id string) (take bool, _ []model.Notice) {
	before, bound := names[c.name]
	parsed, err := Parse(c.name)
	switch {
	case c.name == "" || before == id:
		return false, nil
	case c.asked && bound:
		return true, []model.Notice{model.NameMoved("image", familiar(c.name), id, before)}
	case c.asked:
		return true, nil
	case bound:
		return false, []model.Notice{model.NameKept("image", familiar(c.name), id, fmt.Sprintf("it names %s", short(before)))}
	case err != nil || parsed.Suite != "" || looksBuilt(c.name):
		return false, []model.Notice{model.NameKept("image", familiar(c.name), id, "it is the name of an image that banger builds")}
	}
	return true, nil
}
