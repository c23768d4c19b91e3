package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"banger/internal/disk"
	"banger/internal/image/rootfs"
	"banger/internal/regular"
	"banger/internal/step"
)

func (s *Store) blobPath(digest string) string { return filepath.Join(s.blobs, "sha256", digest) }

// blobSource is a layer in a registry.
type blobSource struct {
	from remoteImage
	desc v1.Descriptor
}

func (b blobSource) open(ctx context.Context) (io.ReadCloser, error) {
	l, err := b.from.puller.Layer(ctx, b.from.ref.ref.Context().Digest(b.desc.Digest.String()))
	if err != nil {
		return nil, err
	}
	return l.Compressed()
}

// fetchBlob returns an open layer. If the cache lacks it, fetchBlob downloads it and checks its
// digest. A cached layer was checked when it was downloaded.
func (s *Store) fetchBlob(ctx context.Context, b blobSource, report step.Reporter, name string) (*os.File, error) {
	d := b.desc
	unlock, err := s.locks.lock(ctx, "blob "+d.Digest.Hex)
	if err != nil {
		return nil, err
	}
	defer unlock()
	f, err := regular.Open(s.blobPath(d.Digest.Hex))
	if err == nil {
		report.Report(step.Event{Step: name, Phase: step.Done, Detail: "here already", Done: d.Size, Total: d.Size, Unit: "bytes"})
		return f, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("opening a cached layer: %w", err)
	}
	end := report.Track(name, short(d.Digest.Hex))
	err = s.download(ctx, b, rootfs.NewProgress(report, name, d.Size))
	end(err)
	if err != nil {
		return nil, fmt.Errorf("fetching layer %s: %w", d.Digest, err)
	}
	return regular.Open(s.blobPath(d.Digest.Hex))
}

// download writes a blob to a staging directory, checks it, and moves it to the cache.
func (s *Store) download(ctx context.Context, src blobSource, count *rootfs.Progress) (err error) {
	b, err := s.locks.newStaging(ctx, s.blobs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	f, err := os.OpenFile(b.path("blob"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return disk.NoSpace(err, b.dir)
	}
	defer f.Close()
	transfer, stall, stop := newStallGuard(ctx)
	defer stop()
	body, err := src.open(withLayer(transfer))
	if err != nil {
		return registryError(transfer, src.from.ref, err)
	}
	defer body.Close()
	unhang := context.AfterFunc(transfer, func() { body.Close() })
	defer unhang()
	stall.r = body
	d, h := src.desc, sha256.New()
	n, err := io.Copy(io.MultiWriter(disk.NewRoom(s.opts.Room), f, h, count), io.LimitReader(stall, d.Size+1))
	if err != nil {
		return registryError(transfer, src.from.ref, disk.NoSpace(err, b.dir))
	}
	if sum := hex.EncodeToString(h.Sum(nil)); sum != d.Digest.Hex || n != d.Size {
		return invalid("the registry sent %d bytes with the digest sha256:%s, not %d bytes", n, sum, d.Size)
	}
	if err := f.Sync(); err != nil {
		return disk.NoSpace(err, b.dir)
	}
	if err := os.Rename(f.Name(), s.blobPath(d.Digest.Hex)); err != nil {
		return err
	}
	return disk.SyncDir(filepath.Join(s.blobs, "sha256"))
}

// blobLayers pairs open blobs with the digests of their contents.
func blobLayers(blobs []*os.File, config *v1.ConfigFile) ([]rootfs.Layer, error) {
	layers := make([]rootfs.Layer, len(blobs))
	for i, f := range blobs {
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		layers[i] = rootfs.Layer{
			Label:  fmt.Sprintf("%d of %d", i+1, len(blobs)),
			DiffID: config.RootFS.DiffIDs[i].Hex,
			Open: func(ctx context.Context) (io.ReadCloser, error) {
				return rootfs.Decompress(ctx, io.NewSectionReader(f, 0, info.Size()))
			},
		}
	}
	return layers, nil
}
