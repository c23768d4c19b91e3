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

// version counts incompatible changes of Meta, of what sums are taken over, and of the folder. Fields may be added without one: older
// programs leave them aside.
const version = 1

// Bounds of what a snapshot may be, wherever it comes from.
const (
	maxMeta   = 1 << 20         // bytes of meta.json
	maxDevice = 64 * model.MiB  // bytes of the devices' state; drivers write some 100 KB
	maxDisks  = 16              //
	maxName   = 32              // bytes of a disk's name
	sumLen    = 2 * sha256.Size // hex digits
)

// Meta says what a snapshot is. Who commits one fills in the first group of fields, Commit the second.
//
// What a snapshot from elsewhere says of itself is as hostile as the rest of it. This package checks the second group and the sizes;
// whoever makes a machine of a snapshot validates Spec and Extra.
type Meta struct {
	Created     time.Time       `json:"created"`               // the moment that it keeps; the time of the commit when zero
	Driver      string          `json:"driver,omitempty"`      // that saved the memory and can restore it
	Fingerprint string          `json:"fingerprint,omitempty"` // of the machine, as vmm.Restorer gives it; opaque here
	Generation  int             `json:"generation,omitempty"`  // of the agent's protocol, as spoken by the agent in the memory
	Spec        model.Spec      `json:"spec"`                  // of the VM that was saved, with the references and ids of its image and kernel
	Extra       json.RawMessage `json:"extra,omitempty"`       // what the owner wants to remember; opaque here

	Version int                `json:"version"`
	Kind    model.SnapshotKind `json:"kind"`             // full when there is memory
	Memory  *File              `json:"memory,omitempty"` // both or neither
	Device  *File              `json:"device,omitempty"` //
	Disks   []Disk             `json:"disks,omitempty"`
}

// File says what a file of a snapshot must be.
type File struct {
	Size model.Bytes `json:"size"`
	// Sum is for integrity, not authenticity: who can change the file can change its sum. It is the SHA-256 of the device's state, and of
	// memory and disks what sumFile says. "" when none was taken.
	Sum string `json:"sum,omitempty"`
	// Modified is when the file was last written, in nanoseconds since 1970: a cheap sign that nobody did since. A copy of the folder may have
	// another, so a file whose time is wrong is looked at in full before it is blamed.
	Modified int64 `json:"modified,omitempty"`
}

// Disk is a disk of a snapshot.
type Disk struct {
	Name string `json:"name"` // of [a-z0-9-]
	File
}

// meta.json is one JSON object whose form is fixed to the byte, so that no flipped bit goes unnoticed: the SHA-256 of the inner object's
// bytes, and that object.
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
	data := sealMeta(inner)
	if len(data) > maxMeta {
		return nil, fault.New(fault.Invalid, "the snapshot's description has %d bytes; %d is the most", len(data), maxMeta)
	}
	return data, nil
}

func sealMeta(inner []byte) []byte {
	sum := sha256.Sum256(inner)
	return []byte(metaHead + hex.EncodeToString(sum[:]) + metaMid + string(inner) + metaTail)
}

// decodeMeta reads what encodeMeta wrote, here or anywhere. All errors are fault.Invalid.
func decodeMeta(data []byte) (Meta, error) {
	head := len(metaHead) + sumLen + len(metaMid)
	if len(data) > maxMeta || len(data) < head+len(metaTail) || !bytes.HasPrefix(data, []byte(metaHead)) || !bytes.HasSuffix(data, []byte(metaTail)) ||
		string(data[head-len(metaMid):head]) != metaMid {
		return Meta{}, damaged("it has no description of a snapshot")
	}
	inner := data[head : len(data)-len(metaTail)]
	if sum := sha256.Sum256(inner); hex.EncodeToString(sum[:]) != string(data[len(metaHead):len(metaHead)+sumLen]) {
		return Meta{}, damaged("the description does not match its sum")
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

// check tells what is wrong with the fields that Commit fills in.
func (m Meta) check() error {
	switch {
	case m.Created.IsZero():
		return fmt.Errorf("no time of creation")
	case m.Kind == model.SnapshotFull && (m.Memory == nil || m.Device == nil):
		return fmt.Errorf("memory or devices are missing")
	case m.Kind == model.SnapshotDisk && (m.Memory != nil || m.Device != nil):
		return fmt.Errorf("memory is not of its kind")
	case m.Kind == model.SnapshotDisk && len(m.Disks) == 0:
		return fmt.Errorf("it keeps nothing")
	case m.Kind != model.SnapshotFull && m.Kind != model.SnapshotDisk:
		return fmt.Errorf("%.20q is no kind of snapshot", m.Kind)
	case len(m.Disks) > maxDisks:
		return fmt.Errorf("%d disks are more than %d", len(m.Disks), maxDisks)
	}
	seen := map[string]bool{}
	for _, f := range m.files() {
		if seen[f.name] {
			return fmt.Errorf("two disks have the name of %q", f.name)
		}
		seen[f.name] = true
		if f.Size < 1 || f.Size > f.max {
			return fmt.Errorf("%s of %d bytes is not between 1 and %d", f.name, f.Size, f.max)
		}
		if !isSum(f.Sum) && (f.Sum != "" || f.disk == "") {
			return fmt.Errorf("the sum of %s is none", f.name)
		}
	}
	for _, d := range m.Disks {
		if err := checkDiskName(d.Name); err != nil {
			return err
		}
	}
	return nil
}

// file is a File with its place in the folder.
type file struct {
	*File
	name string
	disk string // the name of the disk that it is, or ""
	max  model.Bytes
}

// files returns what the snapshot consists of besides its description, in the order of an export.
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

// clone returns a copy that shares nothing that a caller could change.
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
	m.Extra = bytes.Clone(m.Extra)
	return m
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
	return damaged("%s is not what was kept: its sum is wrong", f.Name())
}

func wrongVersion(v, known int) error {
	if v > known {
		return fault.New(fault.Invalid, "the snapshot has format %d, and this banger knows formats up to %d", v, known).
			WithHint("A newer banger made it; use that one or a later one.")
	}
	return damaged("there is no format %d", v)
}
