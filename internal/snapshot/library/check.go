package library

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/pattern"
	"banger/internal/snapshot"
	"banger/internal/vmm"
)

// Label is what a stored snapshot says of the VM that it is of.
type Label struct {
	Name  string        `json:"name"`
	VM    string        `json:"vm"`
	VMID  string        `json:"vm_id"`
	Pause time.Duration `json:"pause"`
}

// maxRef bounds the reference of an image or kernel, as the user wrote it.
const maxRef = 512

var (
	// of an image or kernel: it names a directory
	contentID  = pattern.Lazy(`^[a-z0-9][a-z0-9-]{0,63}$`)
	imageName  = pattern.Lazy(`^[A-Za-z0-9_.:@/\[\]-]+$`)
	kernelName = pattern.Lazy(`^[a-z0-9][a-z0-9._-]{0,63}$`) // or an id
	digest     = pattern.Lazy(`^[0-9a-f]{64}$`)              // the id of an image or kernel here
	driverName = pattern.Lazy(`^[a-z0-9][a-z0-9-]{0,31}$`)
)

// check returns the label of a snapshot's description, if everything is valid that this package and
// its callers use of the description. Its errors name the field. It checks what is imported, what
// is stored, and what is read from disk; snapshot.Meta checks the files by itself.
func check(meta snapshot.Meta) (Label, error) {
	label, err := checkForDisks(meta)
	if err == nil {
		err = checkMemory(meta)
	}
	return label, err
}

// wrongMeta says what is wrong with a description.
func wrongMeta(format string, args ...any) error {
	return fault.New(fault.Invalid, "the snapshot's description is wrong: "+format, args...)
}

// checkForDisks is check without what only the memory needs.
func checkForDisks(meta snapshot.Meta) (Label, error) {
	var label Label
	bad := func(format string, args ...any) (Label, error) {
		return Label{}, wrongMeta(format, args...)
	}
	if err := json.Unmarshal(meta.Extra, &label); err != nil {
		return bad("extra: it does not say whose it is: %w", err)
	}
	spec := meta.Spec
	spec.Name = label.VM
	if err := spec.Validate(); err != nil {
		return bad("the VM of the snapshot: %w", err)
	}
	switch {
	case !model.IsID(label.VMID):
		return bad("extra.vm_id: %.40q is not the id of a VM", label.VMID)
	case label.Pause < 0:
		return bad("extra.pause: %v is negative", label.Pause)
	case spec.Image == "" || len(spec.Image) > maxRef:
		return bad("spec.image: it does not have 1 to %d bytes", maxRef)
	case spec.Kernel == "" || len(spec.Kernel) > maxRef:
		return bad("spec.kernel: it does not have 1 to %d bytes", maxRef)
	case !contentID().MatchString(spec.ImageID):
		return bad("spec.image_id: %.80q is not the id of an image", spec.ImageID)
	case !contentID().MatchString(spec.KernelID):
		return bad("spec.kernel_id: %.80q is not the id of a kernel", spec.KernelID)
	case meta.Driver != "" && !driverName().MatchString(meta.Driver):
		return bad("driver: %.40q is not the name of a driver", meta.Driver)
	}
	if err := checkDisks(meta); err != nil {
		return bad("disks: %w", err)
	}
	return label, nil
}

// checkDisks compares the disks with those of the VM. A work disk that is missing without memory is
// made at the next start. A description that is to be stored has no disks yet.
func checkDisks(meta snapshot.Meta) error {
	has := map[string]bool{}
	for _, d := range meta.Disks {
		size, known := sizeOf(meta.Spec, d.Name)
		if !known || size == 0 {
			return fmt.Errorf("the VM has no disk %q", d.Name)
		}
		has[d.Name] = true
	}
	switch {
	case meta.Kind == "":
		return nil
	case !has["system"]:
		return fmt.Errorf("there is no disk \"system\"")
	case !has["work"] && meta.Spec.WorkDiskSize != 0 && meta.Kind == model.SnapshotFull:
		return fmt.Errorf("there is no disk \"work\"")
	}
	return nil
}

// checkMemory checks what machine the memory is of, and where it lies in its file. A layout of a
// newer version is no error: the disks can be restored.
func checkMemory(meta snapshot.Meta) error {
	if meta.Memory != nil && meta.Fingerprint == "" {
		return wrongMeta("fingerprint: it does not say what machine the memory is of")
	}
	layout, err := vmm.DecodeMemoryLayout(meta.Layout)
	if err == nil && layout != nil && meta.Memory != nil {
		err = layout.Fits(meta.Spec.Memory, meta.Memory.Size)
	}
	if err != nil && fault.KindOf(err) != fault.Unsupported {
		return wrongMeta("layout: %w", err)
	}
	return nil
}

// checkForeign is check for a description that somebody else wrote. It refuses ids that no home can
// have. The sizes of the disks in the spec are what a person is shown. A disk of an older snapshot
// of this home may be larger.
func checkForeign(meta snapshot.Meta) (Label, error) {
	label, err := check(meta)
	if err != nil {
		return label, err
	}
	spec := meta.Spec
	switch userErr := model.CheckUser(spec.User); {
	case !isImage(spec.Image):
		return Label{}, wrongMeta("spec.image: %.80q is not the name of an image", spec.Image)
	case !kernelName().MatchString(spec.Kernel):
		return Label{}, wrongMeta("spec.kernel: %.80q is not the name of a kernel", spec.Kernel)
	case !digest().MatchString(spec.ImageID):
		return Label{}, wrongMeta("spec.image_id: %.80q is not an id: it does not have 64 hexadecimal digits", spec.ImageID)
	case !digest().MatchString(spec.KernelID):
		return Label{}, wrongMeta("spec.kernel_id: %.80q is not an id: it does not have 64 hexadecimal digits", spec.KernelID)
	case userErr != nil:
		return Label{}, wrongMeta("spec.%w", userErr)
	}
	for _, d := range meta.Disks {
		if size, _ := sizeOf(meta.Spec, d.Name); d.Size > size {
			return Label{}, wrongMeta("%s: the disk has %v, the VM %v", d.Name, d.Size, size)
		}
	}
	return label, nil
}

// isImage reports whether package image may accept a name or an id: no component has dots only.
func isImage(ref string) bool {
	dots := func(part string) bool { return strings.Trim(part, ".") == "" }
	return imageName().MatchString(ref) && !slices.ContainsFunc(strings.Split(ref, "/"), dots)
}

// sizeOf returns the size that a spec has for a disk, and whether there is such a disk.
func sizeOf(spec model.Spec, disk string) (model.Bytes, bool) {
	switch disk {
	case "system":
		return spec.DiskSize, true
	case "work":
		return spec.WorkDiskSize, true
	}
	return 0, false
}
