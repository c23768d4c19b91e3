package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
)

// version counts incompatible changes of Meta, of the sums, and of the directory. A new field needs
// no new version, because older programs ignore it.
const version = 1

// The files in a snapshot's directory.
const (
	metaFile   = "meta.json"
	memoryFile = "memory"
	deviceFile = "device"
	diskSuffix = ".ext4"
)

func diskFile(name string) string { return name + diskSuffix }

// Bounds of every snapshot.
const (
	maxMeta   = 1 << 20         // bytes of meta.json
	maxDevice = 64 * model.MiB  // bytes of the devices' state; drivers write 100 KB
	maxDisks  = 16              //
	maxName   = 32              // bytes of a disk's name
	sumLen    = 2 * sha256.Size // hex digits
)

// Meta describes a snapshot. The caller of Commit fills in the first part, and Commit the second.
// This package checks the second part and the sizes; whoever uses Spec and Extra validates them.
type Meta struct {
	// Created is the saved moment; Commit sets it if it is zero.
	Created time.Time `json:"created"`
	// Driver saved the memory and can restore it.
	Driver string `json:"driver,omitempty"`
	// Fingerprint is the machine's, from vmm.Restorer; this package does not interpret it.
	Fingerprint string `json:"fingerprint,omitempty"`
	// Generation is that of the agent's protocol, as the agent in the memory speaks it.
	Generation int `json:"generation,omitempty"`
	// Spec is the saved VM's, with the references and ids of its image and kernel.
	Spec model.Spec `json:"spec"`
	// Layout says where the guest's memory lies in the memory file, as the driver reported it.
	// This package does not interpret it.
	Layout json.RawMessage `json:"layout,omitempty"`
	// Extra is the owner's; this package does not interpret it.
	Extra json.RawMessage `json:"extra,omitempty"`
	// Seal proves which home made the snapshot; see package seal. Commit sets it if Draft.Seal is
	// set. An imported snapshot keeps its own.
	Seal *Seal `json:"seal,omitempty"`

	Version int                `json:"version"`
	Kind    model.SnapshotKind `json:"kind"`             // full if there is memory
	Memory  *File              `json:"memory,omitempty"` // Memory and Device: both or none
	Device  *File              `json:"device,omitempty"` //
	Disks   []Disk             `json:"disks,omitempty"`
}

// File describes a file of a snapshot.
type File struct {
	Size model.Bytes `json:"size"`
	// Sum is the SHA-256 of the device's state, or what sumFile returns for memory and disks; "" if
	// none was taken. It shows damage, not forgery: who can change the file can change the sum.
	Sum string `json:"sum,omitempty"`
	// Digest is the digest of memory or a disk, as sumFile returns it; "" if none was taken. Nobody
	// can make another file with the same digest.
	Digest string `json:"digest,omitempty"`
	// Modified is the file's modification time, in nanoseconds since 1970. If it differs, for
	// example in a copy, Open reads the whole file before it reports damage.
	Modified int64 `json:"modified,omitempty"`
}

// Seal is a home's proof that it made a snapshot.
type Seal struct {
	Statement json.RawMessage `json:"statement,omitempty"` // what the home says about the snapshot
	MAC       string          `json:"mac,omitempty"`       // of the statement, in hex
}

// Disk is a disk of a snapshot.
type Disk struct {
	Name string `json:"name"` // of [a-z0-9-]
	File
}

// meta.json is one JSON object with the SHA-256 of an inner object's bytes, and that object. Each
// byte of its form is fixed, so that every flipped bit is found.
const (
	metaHead = `{"sum":"`
	metaMid  = `","meta":`
	metaTail = "}\n"
)

func encodeMeta(m Meta) ([]byte, error) {
	inner, err := json.Marshal(m)
	if err != nil {
		return nil, fault.New(fault.Invalid, "describing the snapshot: %w", err)
	}
	data := frameMeta(inner)
	if len(data) > maxMeta {
		return nil, fault.New(fault.Invalid, "the snapshot's description has %d bytes; at most %d are allowed",
			len(data), maxMeta)
	}
	return data, nil
}

func frameMeta(inner []byte) []byte {
	sum := sha256.Sum256(inner)
	return []byte(metaHead + hex.EncodeToString(sum[:]) + metaMid + string(inner) + metaTail)
}

// decodeMeta reads a description from any source. All its errors are fault.Invalid.
func decodeMeta(data []byte) (Meta, error) {
	head := len(metaHead) + sumLen + len(metaMid)
	if len(data) > maxMeta || len(data) < head+len(metaTail) ||
		!bytes.HasPrefix(data, []byte(metaHead)) || !bytes.HasSuffix(data, []byte(metaTail)) ||
		string(data[head-len(metaMid):head]) != metaMid {
		return Meta{}, damaged("its description is not a snapshot's")
	}
	inner := data[head : len(data)-len(metaTail)]
	if sum := sha256.Sum256(inner); hex.EncodeToString(sum[:]) != string(data[len(metaHead):len(metaHead)+sumLen]) {
		return Meta{}, damaged("the description does not match its sum")
	}
	if err := checkKeys(inner); err != nil {
		return Meta{}, damaged("reading its description: %w", err)
	}
	var form struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(inner, &form); err != nil {
		return Meta{}, damaged("reading its description: %w", err)
	}
	if form.Version != version {
		return Meta{}, wrongVersion(form.Version, version)
	}
	var m Meta
	if err := json.Unmarshal(inner, &m); err != nil {
		return Meta{}, damaged("reading its description: %w", err)
	}
	if err := m.check(); err != nil {
		return Meta{}, damaged("its description is wrong: %w", err)
	}
	return m, nil
}

// check returns what is wrong with the fields that Commit fills in, or nil.
func (m Meta) check() error {
	switch {
	case m.Created.IsZero():
		return fmt.Errorf("no time of creation")
	case m.Generation < 0:
		return fmt.Errorf("generation: %d is negative", m.Generation)
	case m.Kind == model.SnapshotFull && (m.Memory == nil || m.Device == nil):
		return fmt.Errorf("memory or devices are missing")
	case m.Kind == model.SnapshotDisk && (m.Memory != nil || m.Device != nil):
		return fmt.Errorf("a snapshot of disks must have no memory")
	case m.Kind == model.SnapshotDisk && len(m.Disks) == 0:
		return fmt.Errorf("it has no files")
	case m.Kind != model.SnapshotFull && m.Kind != model.SnapshotDisk:
		return fmt.Errorf("%.20q is not a kind of snapshot", m.Kind)
	case len(m.Disks) > maxDisks:
		return fmt.Errorf("%d disks are more than %d", len(m.Disks), maxDisks)
	}
	seen := map[string]bool{}
	for _, f := range m.files() {
		if seen[f.name] {
			return fmt.Errorf("two disks have the name %q", f.name)
		}
		seen[f.name] = true
		if f.Size < 1 || f.Size > f.max {
			return fmt.Errorf("%s of %d bytes is not between 1 and %d", f.name, f.Size, f.max)
		}
		if !isSum(f.Sum) && (f.Sum != "" || f.disk == "") {
			return fmt.Errorf("the sum of %s is not a SHA-256", f.name)
		}
		if f.Digest != "" && !isSum(f.Digest) {
			return fmt.Errorf("the digest of %s is not a SHA-256", f.name)
		}
	}
	for _, d := range m.Disks {
		if err := checkDiskName(d.Name); err != nil {
			return err
		}
	}
	return nil
}

// file is a File with its name in the directory.
type file struct {
	*File
	name string
	disk string // the disk's name, or ""
	max  model.Bytes
}

// files returns all files but the description, in the order of an export.
func (m Meta) files() []file {
	var files []file
	if m.Device != nil {
		files = append(files, file{m.Device, deviceFile, "", maxDevice})
	}
	if m.Memory != nil {
		files = append(files, file{m.Memory, memoryFile, "", model.MaxMemory})
	}
	for i := range m.Disks {
		d := &m.Disks[i]
		files = append(files, file{&d.File, diskFile(d.Name), d.Name, model.MaxDiskSize})
	}
	return files
}

// clone returns a deep copy.
func (m Meta) clone() Meta {
	if m.Memory != nil {
		memory := *m.Memory
		m.Memory = &memory
	}
	if m.Device != nil {
		device := *m.Device
		m.Device = &device
	}
	m.Disks = append([]Disk(nil), m.Disks...)
	m.Extra, m.Layout = bytes.Clone(m.Extra), bytes.Clone(m.Layout)
	if m.Seal != nil {
		m.Seal = &Seal{bytes.Clone(m.Seal.Statement), m.Seal.MAC}
	}
	return m
}

// Bare returns a copy of the description without what a copy of the snapshot may change: the
// owner's Extra, times of files, and the seal.
func (m Meta) Bare() Meta {
	m = m.clone()
	m.Extra, m.Seal = nil, nil
	for _, f := range m.files() {
		f.Modified = 0
	}
	return m
}

// Digested reports whether the description determines the content of every file, so that nobody can
// exchange one. The sum of the device's state is a digest.
func (m Meta) Digested() bool {
	for _, f := range m.files() {
		if f.Digest == "" && f.name != deviceFile {
			return false
		}
	}
	return true
}

func isSum(s string) bool { return len(s) == sumLen && strings.Trim(s, "0123456789abcdef") == "" }

func checkDiskName(name string) error {
	if name == "" || len(name) > maxName || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("%.40q is not the name of a disk: 1 to %d of a-z, 0-9 and hyphens", name, maxName)
	}
	return nil
}

func damaged(format string, args ...any) *fault.Error {
	return fault.New(fault.Invalid, "the snapshot is damaged: "+format, args...)
}

func wrongSum(f *os.File) error {
	return damaged("the sum of %s is wrong", f.Name())
}

func wrongVersion(v, known int) error {
	if v > known {
		return fault.New(fault.Invalid, "the snapshot has format %d, and this banger reads formats up to %d", v, known).
			WithHint("A newer banger made it. Use that version or a later one.")
	}
	return damaged("there is no format %d", v)
}
