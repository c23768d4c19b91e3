package image

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sync/errgroup"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/image/rootfs"
	"banger/internal/model"
	"banger/internal/step"
)

// PullOptions are the options of Pull. The zero value is the usual one.
type PullOptions struct {
	// IfMissing does nothing if an image has the name. Otherwise the registry is asked for the
	// name's present image, and a Debian image is built again.
	IfMissing bool
}

// parallelLayers is the number of layers that are fetched at once.
const parallelLayers = 3

// Pull makes the image ref: it builds a Debian image (Build) and gets others from a registry. It
// fetches only layers that the cache lacks. Callers of the same image share the work, within a
// process and between processes.
func (s *Store) Pull(ctx context.Context, ref string, opts PullOptions, report step.Reporter) (model.Image, error) {
	parsed, err := ParseNew(ref)
	if err != nil {
		return model.Image{}, err
	}
	if opts.IfMissing {
		if img, err := s.Get(parsed.Name); fault.KindOf(err) != fault.NotFound {
			return namedFirst(img, parsed.Name), err
		}
	}
	if parsed.Suite != "" {
		return s.Build(ctx, parsed.Suite, report)
	}
	img, err := s.flights.do(ctx, "pull "+parsed.Name, report, func(ctx context.Context, report step.Reporter) (model.Image, error) {
		return s.pull(ctx, parsed, report)
	})
	if err != nil {
		return model.Image{}, fmt.Errorf("pulling %s: %w", parsed.Name, err)
	}
	return img, nil
}

// remoteImage is a registry's answer about an image.
type remoteImage struct {
	ref      Ref
	puller   *remote.Puller
	digest   v1.Hash
	manifest *v1.Manifest
	config   *v1.ConfigFile
}

func (s *Store) pull(ctx context.Context, ref Ref, report step.Reporter) (model.Image, error) {
	r, err := s.opts.resolve(ctx, ref, report)
	if err != nil {
		return model.Image{}, err
	}
	id := r.manifest.Config.Digest.Hex
	unlock, err := s.locks.lock(ctx, "image "+id)
	if err != nil {
		return model.Image{}, err
	}
	defer unlock()
	if _, err := s.read(id); err == nil {
		return s.tag(ctx, id, claim{name: ref.Name, asked: true})
	}
	blobs, err := s.fetchLayers(ctx, r, report)
	defer closeAll(blobs)
	if err != nil {
		return model.Image{}, err
	}
	layers, err := blobLayers(blobs, r.config)
	if err != nil {
		return model.Image{}, err
	}
	rec := record{Image: model.Image{ID: id, Source: "registry", Digest: r.digest.String(), Config: configOf(r.config)}}
	for _, l := range r.manifest.Layers {
		rec.Blobs = append(rec.Blobs, l.Digest.Hex)
	}
	return s.makeImage(ctx, rec, layers, report, claim{name: ref.Name, asked: true})
}

// resolve asks the registry for a name's image for this platform, and checks it against the limits.
func (o Options) resolve(ctx context.Context, ref Ref, report step.Reporter) (r remoteImage, err error) {
	end := report.Track("resolve", ref.Name)
	defer func() { end(err) }()
	ctx, cancel := context.WithTimeoutCause(ctx, manifestTimeout, fmt.Errorf("no manifest after %v", manifestTimeout))
	defer cancel()
	r.ref = ref
	if r.puller, err = remote.NewPuller(o.remote(ref)...); err != nil {
		return r, err
	}
	desc, err := r.puller.Get(ctx, ref.ref)
	if err != nil {
		return r, registryError(ctx, ref, err)
	}
	if !desc.MediaType.IsIndex() && !desc.MediaType.IsImage() {
		return r, fault.New(fault.Unsupported, "%s is of type %q, which is not an image",
			ref.Name, clip(string(desc.MediaType)))
	}
	image, err := desc.Image()
	if err != nil {
		if desc.MediaType.IsIndex() {
			err = fault.New(fault.Unsupported, "%s is not there for %s/%s: %w",
				ref.Name, runtime.GOOS, runtime.GOARCH, err)
		}
		return r, registryError(ctx, ref, err)
	}
	return r, registryError(ctx, ref, r.inspect(image, o.Limits))
}

// inspect reads an image's manifest and configuration. The library checks their digests.
func (r *remoteImage) inspect(image v1.Image, limits Limits) (err error) {
	if r.digest, err = image.Digest(); err != nil {
		return err
	}
	if r.manifest, err = image.Manifest(); err != nil {
		return err
	}
	if err := checkManifest(r.manifest, limits); err != nil {
		return err
	}
	if r.config, err = image.ConfigFile(); err != nil {
		return err
	}
	return checkConfig(r.config, len(r.manifest.Layers))
}

func (o Options) remote(ref Ref) []remote.Option {
	host := url.URL{Host: ref.ref.Context().RegistryStr()}
	return []remote.Option{
		remote.WithAuthFromKeychain(o.Keychain),
		remote.WithTransport(guard{next: o.Transport, loopback: isLoopback(host.Hostname())}),
		remote.WithPlatform(v1.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}),
		remote.WithUserAgent("banger"),
	}
}

// checkManifest rejects an image beyond the limits before anything large is fetched.
func checkManifest(m *v1.Manifest, l Limits) error {
	if len(m.Layers) > l.Layers {
		return rootfs.TooLarge("the number of layers", l.Layers)
	}
	if m.Config.Size < 0 || m.Config.Size > maxDocument {
		return rootfs.TooLarge("the image's configuration", model.Bytes(maxDocument))
	}
	left := int64(l.Compressed)
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if d.Digest.Algorithm != "sha256" || !isID(d.Digest.Hex) {
			return fault.New(fault.Unsupported, "the manifest has a digest that is not sha256: %q",
				clip(d.Digest.String()))
		}
		if left -= d.Size; d.Size < 0 || left < 0 {
			return rootfs.TooLarge("the compressed image", l.Compressed)
		}
	}
	return nil
}

// checkConfig rejects anything but the configuration of a Linux image for this machine. It must
// contain each layer's digest, because its own digest is the image's id.
func checkConfig(c *v1.ConfigFile, layers int) error {
	if len(c.RootFS.DiffIDs) != layers {
		return fault.New(fault.Unsupported, "it is not an image of a file system: its configuration names %d layers, its manifest %d", len(c.RootFS.DiffIDs), layers)
	}
	if c.OS != "" && c.OS != runtime.GOOS || c.Architecture != "" && c.Architecture != runtime.GOARCH {
		return fault.New(fault.Unsupported, "the image is for %q on %q, not for %s on %s",
			clip(c.OS), clip(c.Architecture), runtime.GOOS, runtime.GOARCH).
			WithHint("Get the image for %s/%s.", runtime.GOOS, runtime.GOARCH)
	}
	for _, d := range c.RootFS.DiffIDs {
		if d.Algorithm != "sha256" || !isID(d.Hex) {
			return fault.New(fault.Unsupported, "the configuration has a digest that is not sha256: %q",
				clip(d.String()))
		}
	}
	return checkUse(c.Config)
}

// maxConfig bounds each part of a configuration that a VM gets: one message to the guest and one
// execve must have room for all.
const maxConfig = 64 << 10

// checkUse rejects a configuration that no command could get. Its errors name the field.
func checkUse(c v1.Config) error {
	for field, list := range map[string][]string{
		"Env": c.Env, "Entrypoint and Cmd": slices.Concat(c.Entrypoint, c.Cmd), "User": {c.User}, "WorkingDir": {c.WorkingDir},
	} {
		size := 0
		for _, text := range list {
			size += len(text) + 1
			if strings.ContainsRune(text, 0) {
				return invalid("the image's configuration: %s holds a NUL byte", field)
			}
		}
		if size > maxConfig {
			return invalid("the image's configuration: %s has more than %v", field, model.Bytes(maxConfig))
		}
	}
	return nil
}

func configOf(c *v1.ConfigFile) model.ImageConfig {
	return model.ImageConfig{
		Env: c.Config.Env, WorkingDir: c.Config.WorkingDir, User: c.Config.User, Entrypoint: c.Config.Entrypoint, Cmd: c.Config.Cmd,
	}
}

// fetchLayers fetches all layers and returns them open, in the manifest's order. After an error it
// returns those that are open.
func (s *Store) fetchLayers(ctx context.Context, r remoteImage, report step.Reporter) ([]*os.File, error) {
	files := make([]*os.File, len(r.manifest.Layers))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelLayers)
	for i, d := range r.manifest.Layers {
		g.Go(func() error {
			name := fmt.Sprintf("pull/layer %d of %d", i+1, len(files))
			f, err := s.fetchBlob(gctx, blobSource{r, d}, report, name)
			files[i] = f
			return err
		})
	}
	return files, g.Wait()
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close() // opened for reading
		}
	}
}

// makeImage converts layers to a file system and installs it. The caller holds the lock on the
// image's id.
func (s *Store) makeImage(
	ctx context.Context, rec record, layers []rootfs.Layer, report step.Reporter, c claim,
) (_ model.Image, err error) {
	b, err := s.locks.newStaging(ctx, s.dir)
	if err != nil {
		return model.Image{}, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	out, err := os.OpenFile(b.path(rootfsFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return model.Image{}, err
	}
	defer out.Close()
	conversion := &rootfs.Conversion{Limits: s.opts.Limits, Room: s.opts.Room, Out: out, Report: report, Whiteouts: true}
	t, err := conversion.Layers(ctx, layers)
	if err != nil {
		return model.Image{}, disk.NoSpace(err, b.path(rootfsFile))
	}
	rec.Image.Init, rec.Image.Created = t.Init(), time.Now().UTC()
	return s.install(ctx, b, rec, c)
}
