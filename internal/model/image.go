package model

import "time"

// Image is a root filesystem as one read-only ext4 file, with the OCI configuration it came with.
type Image struct {
	ID    string   `json:"id"`    // sha256 in hex of what it was made from
	Names []string `json:"names"` // full references: "debian:bookworm"
	// Source is "registry", "debian", "docker-archive", "oci-layout", "rootfs-tar", "directory" or
	// "ext4".
	Source  string      `json:"source"`
	Digest  string      `json:"digest,omitempty"` // the manifest's digest when it was pulled
	Config  ImageConfig `json:"config"`           //
	Size    Bytes       `json:"size"`             // of the ext4 file
	Init    string      `json:"init,omitempty"`   // path of its init, "" if it has none
	Created time.Time   `json:"created"`          // when this host made it
	Path    string      `json:"path,omitempty"`   // of the ext4 file on the host
	// Notices are about the operation that returns the image.
	Notices []Notice `json:"notices,omitempty"`
	// Template is set in the answer about one image.
	Template *ImageTemplate `json:"template,omitempty"`
}

// TemplateMode says whether VMs of an image may start from a template of the image.
type TemplateMode string

// The modes.
const (
	TemplateAuto TemplateMode = "auto" // if its first boot is known to be over, and harmless
	TemplateOn   TemplateMode = "on"   // whatever its first boot writes
	TemplateOff  TemplateMode = "off"  // never
)

// ImageTemplate is what banger knows of an image's templates.
type ImageTemplate struct {
	Mode TemplateMode `json:"mode"`
	// Shared are files that its first boot wrote, and that all VMs from a template would share.
	Shared []string `json:"shared,omitempty"`
	Cut    bool     `json:"cut,omitempty"`  // there are more such files
	Keys   []string `json:"keys,omitempty"` // of the templates that there are now
	// Unready means that its init has no signal that banger understands of having started all
	// services.
	Unready bool `json:"unready,omitempty"`
}

// Refused reports whether no template of the image is made and used.
func (t ImageTemplate) Refused() bool {
	return t.Mode == TemplateOff || t.Mode != TemplateOn && (len(t.Shared) > 0 || t.Cut || t.Unready)
}

// ImageChange changes an image's settings.
type ImageChange struct {
	Template TemplateMode `json:"template"` // auto judges the next first boot anew
}

// ImageConfig is the part of an OCI image configuration that a VM uses (OCI image-spec, config.md).
type ImageConfig struct {
	Env        []string `json:"env,omitempty"`
	WorkingDir string   `json:"working_dir,omitempty"`
	User       string   `json:"user,omitempty"`
	Entrypoint []string `json:"entrypoint,omitempty"`
	Cmd        []string `json:"cmd,omitempty"`
}

// Kernel is a guest kernel and its modules, imported once.
type Kernel struct {
	ID      string    `json:"id"`      // sha256 in hex of the files it was made from
	Names   []string  `json:"names"`   // "debian", "my-kernel"
	Version string    `json:"version"` // "6.1.0-43-cloud-amd64"
	Source  string    `json:"source"`  // the package and its version, or "import"
	Arch    string    `json:"arch"`    // GOARCH
	Created time.Time `json:"created"` //
	Size    Bytes     `json:"size"`    // of all its files

	Vmlinuz string `json:"vmlinuz,omitempty"` // path of the compressed image, if there is one
	Vmlinux string `json:"vmlinux"`           // path of the uncompressed ELF
	Config  string `json:"config,omitempty"`  // path of its build configuration, if known
	// Modules is the path of the newc archive of needed modules in load order; "" if all are built
	// in.
	Modules string `json:"modules,omitempty"`

	Warnings []string `json:"warnings,omitempty"` // what the import could not check
	// Notices are about the operation that returns the kernel.
	Notices []Notice `json:"notices,omitempty"`
}
