package server

import (
	"context"
	"testing"

	"banger/internal/model"
)

// named is a pool of two templates. Both images had the name alpine:3 when the templates were made.
// The image "other" has it now.
type named struct{ templates }

const alpine = "docker.io/library/alpine:3"

func (n named) List(context.Context) ([]model.Template, error) {
	return []model.Template{
		{Key: "u1"}, {Key: "i1", Image: alpine, ImageID: "former"}, {Key: "i2", Image: alpine, ImageID: "other"},
	}, nil
}

func (n named) Get(ctx context.Context, _, imageID string) (model.Template, error) {
	list, err := n.List(ctx)
	for _, t := range list {
		if t.ImageID == imageID {
			return t, err
		}
	}
	return list[1], err
}

// TestMovedNamesOfTemplates: a name means the template of the image that has the name now, as it
// does in a start. The list says which templates had the name earlier.
func TestMovedNamesOfTemplates(t *testing.T) {
	t.Parallel()
	w := serve(t, func(c *Config) { c.Templates = named{c.Templates.(templates)} })
	c := w.client.Templates()
	list, err := c.List(t.Context())
	if err != nil || len(list) != 3 {
		t.Fatalf("the templates are %+v, %v", list, err)
	}
	for i, moved := range []bool{false, true, false} {
		if list[i].ImageMoved != moved {
			t.Errorf("template %s: moved is %v", list[i].Key, list[i].ImageMoved)
		}
	}
	if got, err := c.Get(t.Context(), alpine); err != nil || got.Key != "i2" || got.ImageMoved {
		t.Errorf("the template of %s is %+v, %v; want i2", alpine, got, err)
	}
	if got, err := c.Get(t.Context(), "i1"); err != nil || got.Key != "i1" || !got.ImageMoved {
		t.Errorf("the template i1 is %+v, %v", got, err)
	}
	if _, err := c.Delete(t.Context(), alpine); err != nil {
		t.Fatal(err)
	}
	calls := w.m.noted()
	if got, want := calls[len(calls)-1], "delete template "+alpine+" or of image other"; got != want {
		t.Errorf("the pool was asked %q, want %q", got, want)
	}
}

// foreign has the snapshots of a library that somebody else may have written.
type foreign struct{ library }

func (foreign) List(context.Context) ([]model.Snapshot, error) {
	return []model.Snapshot{{Image: alpine, ImageID: "other"}, {Image: alpine, ImageID: "evil"}, {Damaged: "yes"}}, nil
}

func (f foreign) Get(ctx context.Context, _ string) (model.Snapshot, error) {
	list, err := f.List(ctx)
	return list[1], err
}

// TestMovedNamesOfImages: a VM or a snapshot says if the name that it has for its image does not
// mean that image here.
func TestMovedNamesOfImages(t *testing.T) {
	t.Parallel()
	w := serve(t, func(c *Config) { c.Library = foreign{c.Library.(library)} })
	for id, image := range map[string]string{"0000000000000001": "other", "0000000000000002": "evil"} {
		w.m.put(model.VM{ID: id, Spec: model.Spec{Name: image, Image: alpine, ImageID: image}})
	}
	vms, err := w.client.VMs().List(t.Context())
	if err != nil || len(vms) != 3 {
		t.Fatalf("the VMs are %+v, %v", vms, err)
	}
	for _, v := range vms {
		if moved := v.Spec.Name == "evil"; v.ImageMoved != moved {
			t.Errorf("VM %s: moved is %v", v.Spec.Name, v.ImageMoved)
		}
	}
	if v, err := w.client.VMs().Get(t.Context(), "evil"); err != nil || !v.ImageMoved {
		t.Errorf("VM evil is %+v, %v", v, err)
	}
	snaps, err := w.client.Snapshots().List(t.Context())
	if err != nil || len(snaps) != 3 || snaps[0].ImageMoved || !snaps[1].ImageMoved || snaps[2].ImageMoved {
		t.Errorf("the snapshots are %+v, %v; want the second one moved", snaps, err)
	}
	if s, err := w.client.Snapshots().Get(t.Context(), "evil"); err != nil || !s.ImageMoved {
		t.Errorf("the snapshot is %+v, %v", s, err)
	}
}
