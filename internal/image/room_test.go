package image

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
)

// TestRoomEnds: the host runs low on space while an image is written. The work ends with the answer
// of the guard, and leaves nothing.
func TestRoomEnds(t *testing.T) {
	files := append([]file{{name: "large", body: strings.Repeat("x", int(disk.RoomEvery)+1<<20)}}, rootFiles...)
	large := makeTar(t, files...)
	dir := t.TempDir()
	tarball := write(t, filepath.Join(dir, "x.tar"), large)
	packed := write(t, filepath.Join(dir, "x.tar.gz"), gz(t, large))
	raw := filepath.Join(dir, "x.ext4")
	if err := errors.Join(disk.Create(t.Context(), raw, 256*model.MiB), writeAt(raw, []byte(strings.Repeat("x", int(disk.RoomEvery)+1<<20)), 100<<20)); err != nil {
		t.Fatal(err)
	}
	h := newHub(t)
	ref := h.push(t, "app:1", makeImage(t, static.NewLayer(large, types.DockerUncompressedLayer)))
	importing := func(path string) func(*Store) error {
		return func(s *Store) error {
			_, err := s.Import(t.Context(), path, ImportOptions{Name: "x"}, nil)
			return err
		}
	}
	for name, do := range map[string]func(*Store) error{
		"an archive": importing(tarball), "a compressed archive": importing(packed), "ext4": importing(raw),
		"a pull": func(s *Store) error { _, err := s.Pull(t.Context(), ref, PullOptions{}, nil); return err },
	} {
		asked, full := 0, fault.New(fault.Unavailable, "the host has 1G free").WithHint("banger df")
		if err := do(newStore(t, Options{Room: func() error { asked++; return nil }})); err != nil || asked == 0 {
			t.Errorf("%s: with room: %v, asked %d times", name, err, asked)
		}
		for ; asked > 0; asked-- { // the last answer first
			left := asked
			s := newStore(t, Options{Room: func() error {
				if left--; left == 0 {
					return full
				}
				return nil
			}})
			if err := do(s); !errors.Is(err, full) || fault.HintOf(err) != full.Hint {
				t.Errorf("%s: without room at question %d: %v, %q", name, asked, err, fault.HintOf(err))
			}
			nothingLeft(t, s)
			if images, err := s.List(); err != nil || len(images) > 0 {
				t.Errorf("%s: images %v, %v; want none", name, images, err)
			}
		}
	}
}

func writeAt(path string, data []byte, at int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, at)
	return errors.Join(err, f.Close())
}
