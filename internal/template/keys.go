package template

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"banger/internal/disk"
	"banger/internal/model"
)

// The first letters of keys.
const (
	universalKey = "u"
	imageKey     = "i"
)

var keyPattern = regexp.MustCompile(`^[ui][0-9a-f]{24}$`)

func keyOf(kind string, parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return kind + hex.EncodeToString(sum[:12])
}

func universalKeyOf(fingerprint string) string { return keyOf(universalKey, fingerprint) }

// imageKeyOf is the key of the image's template for VMs with this spec.
func imageKeyOf(fingerprint string, spec model.Spec) string {
	size := func(b model.Bytes) string { return strconv.FormatInt(int64(b), 10) }
	return keyOf(imageKey, fingerprint, spec.ImageID, size(spec.DiskSize), size(spec.WorkDiskSize))
}

// fitting lists the keys of the image's templates that can serve a VM with this spec, the best
// first: its own, then that of disks of the usual sizes, if those are smaller. Growing takes no
// longer than beginning with empty disks and waiting for an init.
func fitting(fingerprint string, spec, usualSpec model.Spec) []string {
	usual := spec
	usual.DiskSize = min(spec.DiskSize, usualSpec.DiskSize)
	if usualSpec.WorkDiskSize != 0 { // whether there is a work disk at all is in the fingerprint
		usual.WorkDiskSize = min(spec.WorkDiskSize, usualSpec.WorkDiskSize)
	}
	if spec.DiskSize > disk.GrowsTo(usual.DiskSize) || spec.WorkDiskSize > disk.GrowsTo(usual.WorkDiskSize) {
		usual = spec
	}
	return slices.Compact([]string{imageKeyOf(fingerprint, spec), imageKeyOf(fingerprint, usual)})
}
