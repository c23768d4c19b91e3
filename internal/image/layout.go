package image

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"banger/internal/fault"
	"banger/internal/image/rootfs"
	"banger/internal/model"
)

// fromArchive makes an image from an image archive or layout.
func (im *importer) fromArchive(ctx context.Context, b *staging, f files, format Format) (model.Image, error) {
	find := im.findDocker
	if format == FormatOCI {
		find = im.findOCI
	}
	a, err := find(f)
	if err != nil {
		return model.Image{}, err
	}
	if err := checkConfig(a.config, len(a.layers)); err != nil {
		return model.Image{}, err
	}
	if len(a.layers) > im.store.opts.Limits.Layers {
		return model.Image{}, rootfs.TooLarge("the number of layers", im.store.opts.Limits.Layers)
	}
	unlock, err := im.store.locks.lock(ctx, "image "+a.id)
	if err != nil {
		return model.Image{}, err
	}
	defer unlock()
	if _, err := im.store.read(a.id); err == nil {
		return im.store.tag(ctx, a.id, im.claim(a.names...))
	}
	out, err := os.OpenFile(b.path(rootfsFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return model.Image{}, err
	}
	defer out.Close()
	c := &rootfs.Conversion{Limits: im.store.opts.Limits, Room: im.store.opts.Room, Out: out, Report: im.report, Whiteouts: true}
	t, err := c.Layers(ctx, fileLayers(f, a))
	if err != nil {
		return model.Image{}, err
	}
	return im.install(ctx, b, record{Image: model.Image{
		ID: a.id, Source: string(format), Digest: a.digest, Config: configOf(a.config), Init: t.Init(),
	}}, a.names...)
}

func fileLayers(f files, a archived) []rootfs.Layer {
	layers := make([]rootfs.Layer, len(a.layers))
	for i, name := range a.layers {
		layers[i] = rootfs.Layer{
			Label:  fmt.Sprintf("%d of %d", i+1, len(a.layers)),
			DiffID: a.config.RootFS.DiffIDs[i].Hex,
			Open: func(ctx context.Context) (io.ReadCloser, error) {
				r, err := f.open(name)
				if err != nil {
					return nil, missing(err)
				}
				plain, err := rootfs.Decompress(ctx, r)
				if err != nil {
					r.Close()
					return nil, err
				}
				return both{plain, r}, nil
			},
		}
	}
	return layers
}

// both closes a reader and its source.
type both struct {
	io.ReadCloser
	under io.Closer
}

func (b both) Close() error {
	err := b.ReadCloser.Close()
	return cmp.Or(err, b.under.Close())
}

// findDocker finds the image in the output of docker save.
func (im *importer) findDocker(f files) (archived, error) {
	var manifests []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := readJSON(f, dockerManifestFile, &manifests); err != nil {
		return archived{}, err
	}
	var names []string
	for _, m := range manifests {
		name := ""
		if len(m.RepoTags) > 0 {
			name = m.RepoTags[0]
		}
		names = append(names, append([]string{name}, m.RepoTags...)...)
		if im.opts.Select != "" && !slices.Contains(m.RepoTags, im.opts.Select) || im.opts.Select == "" && len(manifests) > 1 {
			continue
		}
		data, err := readDocument(f, m.Config)
		if err != nil {
			return archived{}, err
		}
		config, err := parseConfig(data)
		if err != nil {
			return archived{}, err
		}
		sum := sha256.Sum256(data)
		return archived{names: m.RepoTags, id: hex.EncodeToString(sum[:]), config: config, layers: m.Layers}, nil
	}
	return archived{}, notOne(names)
}

const refNameAnnotation = "org.opencontainers.image.ref.name" // OCI image-spec, annotations.md

// maxIndexes bounds the depth of nested indexes.
const maxIndexes = 4

// findOCI finds the image for this machine in an OCI image layout.
func (im *importer) findOCI(f files) (archived, error) {
	var index v1.IndexManifest
	if err := readJSON(f, ociIndexFile, &index); err != nil {
		return archived{}, err
	}
	var found []v1.Descriptor
	var names []string
	for _, d := range index.Manifests {
		name := d.Annotations[refNameAnnotation]
		names = append(names, name)
		if im.opts.Select == "" && fits(d.Platform) || im.opts.Select != "" && name == im.opts.Select {
			found = append(found, d)
		}
	}
	if len(found) != 1 {
		return archived{}, notOne(names)
	}
	name := found[0].Annotations[refNameAnnotation]
	if !strings.ContainsAny(name, "/:") {
		name = "" // the specification allows only a tag here
	}
	a, err := ociImage(f, found[0], maxIndexes)
	a.names = []string{name}
	return a, err
}

// fits reports whether a platform is missing or this machine's.
func fits(p *v1.Platform) bool {
	return p == nil || (p.OS == "" || p.OS == runtime.GOOS) && (p.Architecture == "" || p.Architecture == runtime.GOARCH)
}

// ociImage reads a descriptor's manifest; in an index, the first one that fits.
func ociImage(f files, d v1.Descriptor, depth int) (archived, error) {
	data, err := readBlob(f, d.Digest)
	if err != nil {
		return archived{}, err
	}
	if d.MediaType.IsIndex() {
		var index v1.IndexManifest
		if err := json.Unmarshal(data, &index); err != nil {
			return archived{}, invalid("the index %s: %w", d.Digest, err)
		}
		for _, sub := range index.Manifests {
			if depth > 0 && fits(sub.Platform) {
				return ociImage(f, sub, depth-1)
			}
		}
		return archived{}, fault.New(fault.Unsupported, "the layout has no image for %s/%s",
			runtime.GOOS, runtime.GOARCH)
	}
	var m v1.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return archived{}, invalid("the manifest %s: %w", d.Digest, err)
	}
	config, err := readBlob(f, m.Config.Digest)
	if err != nil {
		return archived{}, err
	}
	a := archived{id: m.Config.Digest.Hex, digest: d.Digest.String()}
	for _, l := range m.Layers {
		name, err := blobFile(l.Digest)
		if err != nil {
			return archived{}, err
		}
		a.layers = append(a.layers, name)
	}
	a.config, err = parseConfig(config)
	return a, err
}

// readBlob reads a small blob of a layout and checks its digest.
func readBlob(f files, digest v1.Hash) ([]byte, error) {
	name, err := blobFile(digest)
	if err != nil {
		return nil, err
	}
	data, err := readDocument(f, name)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != digest.Hex {
		return nil, invalid("the blob %s is damaged: its digest is another", digest)
	}
	return data, nil
}

func blobFile(digest v1.Hash) (string, error) {
	if digest.Algorithm != "sha256" || !isID(digest.Hex) {
		return "", fault.New(fault.Unsupported, "the layout has a digest that is not sha256: %q", clip(digest.String()))
	}
	return "blobs/sha256/" + digest.Hex, nil
}

// parseConfig reads an image's configuration.
func parseConfig(data []byte) (*v1.ConfigFile, error) {
	var c v1.ConfigFile
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, invalid("the image's configuration: %w", err)
	}
	return &c, nil
}

// notOne is the error for an archive with no image or several.
func notOne(names []string) error {
	names = slices.Compact(slices.DeleteFunc(slices.Sorted(slices.Values(names)), func(s string) bool { return s == "" }))
	if len(names) > 20 {
		names = append(names[:20], "...")
	}
	return invalid("the archive has not exactly one such image for %s/%s", runtime.GOOS, runtime.GOARCH).
		WithHint("Choose one of: %s", clip(strings.Join(names, ", ")))
}
