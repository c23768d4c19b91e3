package seal

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/snapshot"
)

func open(t *testing.T, file string) *Key {
	t.Helper()
	k, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// described is a description as Commit completes it.
func described() snapshot.Meta {
	sum := strings.Repeat("ab", 32)
	return snapshot.Meta{
		Created: time.Now().UTC(), Driver: "qemu", Fingerprint: "f", Generation: 3, Version: 1, Kind: model.SnapshotFull,
		Spec:   model.Spec{Name: "web", Env: map[string]string{"A": "<&>\u2028"}, ImageID: sum},
		Layout: json.RawMessage(`{"a":[1, 2]}`), Extra: json.RawMessage(`{"name":"night"}`),
		Memory: &snapshot.File{Size: 1, Sum: sum, Digest: sum, Modified: 1}, Device: &snapshot.File{Size: 2, Sum: sum, Modified: 2},
		Disks: []snapshot.Disk{{Name: "system", File: snapshot.File{Size: 3, Sum: sum, Digest: sum, Modified: 3}}},
	}
}

// stored is a description after it was written and read.
func stored(t *testing.T, m snapshot.Meta) snapshot.Meta {
	t.Helper()
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var read snapshot.Meta
	if err := json.Unmarshal(data, &read); err != nil {
		t.Fatal(err)
	}
	return read
}

func sealed(t *testing.T, k *Key) snapshot.Meta {
	t.Helper()
	m := described()
	var err error
	if m.Seal, err = k.Seal(m); err != nil {
		t.Fatal(err)
	}
	return stored(t, m)
}

func TestSeal(t *testing.T) {
	k, other := open(t, filepath.Join(t.TempDir(), "key")), open(t, filepath.Join(t.TempDir(), "key"))
	if !k.Made(sealed(t, k)) {
		t.Error("a home does not know its own snapshot")
	}
	if other.Made(sealed(t, k)) {
		t.Error("another home takes the snapshot for its own")
	}
	copied := sealed(t, k)
	copied.Extra, copied.Memory.Modified = json.RawMessage(`{"name":"other"}`), 77
	if !k.Made(copied) {
		t.Error("a home does not know its own snapshot with another name, in another place")
	}
}

// TestForged claims that nothing that a restore uses can change under a seal.
func TestForged(t *testing.T) {
	k := open(t, filepath.Join(t.TempDir(), "key"))
	sum := strings.Repeat("cd", 32)
	for name, forge := range map[string]func(*snapshot.Meta){
		"no seal":                  func(m *snapshot.Meta) { m.Seal = nil },
		"an empty seal":            func(m *snapshot.Meta) { m.Seal = &snapshot.Seal{} },
		"no MAC":                   func(m *snapshot.Meta) { m.Seal.MAC = "" },
		"half a MAC":               func(m *snapshot.Meta) { m.Seal.MAC = m.Seal.MAC[:32] },
		"another statement":        func(m *snapshot.Meta) { m.Seal.Statement = append(m.Seal.Statement, ' ') },
		"memory":                   func(m *snapshot.Meta) { m.Memory.Digest = sum },
		"memory without a digest":  func(m *snapshot.Meta) { m.Memory.Digest = "" },
		"memory of another size":   func(m *snapshot.Meta) { m.Memory.Size++ },
		"devices":                  func(m *snapshot.Meta) { m.Device.Sum = sum },
		"a disk":                   func(m *snapshot.Meta) { m.Disks[0].Digest = sum },
		"a disk without a digest":  func(m *snapshot.Meta) { m.Disks[0].Digest = "" },
		"another disk":             func(m *snapshot.Meta) { m.Disks = append(m.Disks, m.Disks[0]) },
		"the layout of the memory": func(m *snapshot.Meta) { m.Layout = json.RawMessage(`{"a":[1,3]}`) },
		"the driver":               func(m *snapshot.Meta) { m.Driver = "other" },
		"the machine":              func(m *snapshot.Meta) { m.Fingerprint = "g" },
		"the image":                func(m *snapshot.Meta) { m.Spec.ImageID = sum },
		"the environment":          func(m *snapshot.Meta) { m.Spec.Env["A"] = "b" },
	} {
		m := sealed(t, k)
		forge(&m)
		if k.Made(m) {
			t.Errorf("%s: the forged snapshot counts as the home's own", name)
		}
	}
	bare := described()
	bare.Memory.Digest = ""
	if _, err := k.Seal(bare); err == nil {
		t.Error("a snapshot whose memory anybody can exchange was sealed")
	}
}

// TestKeyIsKept claims that a home has one key, also if a crash left a part of one.
func TestKeyIsKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file+".part", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := sealed(t, open(t, file))
	if !open(t, file).Made(m) {
		t.Error("the key has changed")
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("the key has the mode %v, %v", info.Mode(), err)
	}
}

func TestBadKey(t *testing.T) {
	for name, c := range map[string]struct {
		kind  fault.Kind
		spoil func(file string) error
	}{
		"readable by others": {fault.Denied, func(file string) error { return os.Chmod(file, 0o644) }},
		"too short":          {fault.Damaged, func(file string) error { return os.Truncate(file, 31) }},
		"too long":           {fault.Damaged, func(file string) error { return os.Truncate(file, 33) }},
		"a directory":        {fault.Denied, func(file string) error { return errors.Join(os.Remove(file), os.Mkdir(file, 0o700)) }},
	} {
		file := filepath.Join(t.TempDir(), "key")
		open(t, file)
		if err := c.spoil(file); err != nil {
			t.Fatal(err)
		}
		_, err := Open(file)
		if fault.KindOf(err) != c.kind || fault.HintOf(err) == "" {
			t.Errorf("a key that is %s: %v; want a refusal with the way out", name, err)
		}
	}
	file := filepath.Join(t.TempDir(), "key")
	open(t, file+"-target")
	if err := os.Symlink(file+"-target", file); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file); err == nil {
		t.Error("a link was followed to a key")
	}
}

func FuzzMade(f *testing.F) {
	k := &Key{make([]byte, keyLen)}
	m := described()
	good, err := k.Seal(m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(good.Statement), good.MAC)
	f.Add([]byte(`{}`), "")
	f.Fuzz(func(t *testing.T, text []byte, mac string) {
		m := m
		m.Seal = &snapshot.Seal{Statement: text, MAC: mac}
		if k.Made(m) && string(text) != string(good.Statement) {
			t.Errorf("the statement %q with the MAC %q counts as the home's own", text, mac)
		}
	})
}
