package image

import (
	"context"
	"os"

	"banger/internal/disk"
	"banger/internal/image/rootfs"
	"banger/internal/model"
)

// fromExt4 copies a file system unchanged. The host reads only its superblock.
func (im *importer) fromExt4(ctx context.Context, b *staging) (_ model.Image, err error) {
	end := im.report.Track("copy", im.file)
	defer func() { end(err) }()
	// Check and keep the copy, because the original may change.
	if err := disk.CloneWithin(ctx, im.path, b.path(rootfsFile), disk.NewRoom(im.store.opts.Room)); err != nil {
		return model.Image{}, err
	}
	f, err := os.OpenFile(b.path(rootfsFile), os.O_RDWR, 0)
	if err != nil {
		return model.Image{}, err
	}
	defer f.Close()
	size, err := rootfs.CheckExt4(f)
	if err != nil {
		return model.Image{}, err
	}
	if size > int64(im.store.opts.Limits.Size) {
		return model.Image{}, rootfs.TooLarge("the file system", im.store.opts.Limits.Size)
	}
	if err := f.Truncate(size); err != nil { // the rest is not the file system
		return model.Image{}, err
	}
	id, err := rootfs.SparseSum(ctx, f, size)
	if err != nil {
		return model.Image{}, err
	}
	return im.install(ctx, b, record{Image: model.Image{ID: id, Source: string(FormatExt4)}}, "")
}
