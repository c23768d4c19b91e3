package snapshot

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
)

// TestEveryBitOfMeta flips each bit of a description.
func TestEveryBitOfMeta(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(commit(t, filepath.Join(t.TempDir(), "a")).Dir(), metaFile))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decodeMeta(data); err != nil {
		t.Fatal(err)
	}
	for i := range data {
		for bit := range 8 {
			data[i] ^= 1 << bit
			if _, err := decodeMeta(data); fault.KindOf(err) != fault.Invalid {
				t.Errorf("byte %d bit %d flipped: got %v, want fault.Invalid", i, bit, err)
			}
			data[i] ^= 1 << bit
		}
	}
}

// TestMetaRefused decodes wrong descriptions with a right sum.
func TestMetaRefused(t *testing.T) {
	good := commit(t, filepath.Join(t.TempDir(), "a")).Meta()
	for name, spoil := range map[string]func(*Meta){
		"newer":          func(m *Meta) { m.Version = version + 1 },
		"version 0":      func(m *Meta) { m.Version = 0 },
		"no kind":        func(m *Meta) { m.Kind = "" },
		"wrong kind":     func(m *Meta) { m.Kind = model.SnapshotDisk },
		"no time":        func(m *Meta) { m.Created = time.Time{} },
		"no memory":      func(m *Meta) { m.Memory = nil },
		"no device":      func(m *Meta) { m.Device = nil },
		"nothing":        func(m *Meta) { m.Kind, m.Memory, m.Device, m.Disks = model.SnapshotDisk, nil, nil, nil },
		"many disks":     func(m *Meta) { m.Disks = make([]Disk, maxDisks+1) },
		"negative":       func(m *Meta) { m.Memory.Size = -1 },
		"empty":          func(m *Meta) { m.Device.Size = 0 },
		"huge memory":    func(m *Meta) { m.Memory.Size = model.MaxMemory + 1 },
		"huge disk":      func(m *Meta) { m.Disks[0].Size = model.MaxDiskSize + 1 },
		"huge device":    func(m *Meta) { m.Device.Size = maxDevice + 1 },
		"no sum":         func(m *Meta) { m.Memory.Sum = "" },
		"wrong sum":      func(m *Meta) { m.Disks[0].Sum = strings.Repeat("X", sumLen) },
		"short sum":      func(m *Meta) { m.Device.Sum = "00" },
		"way out":        func(m *Meta) { m.Disks[1].Name = "../../x" },
		"no name":        func(m *Meta) { m.Disks[1].Name = "" },
		"two of a name":  func(m *Meta) { m.Disks[1].Name = m.Disks[0].Name },
		"generation -1":  func(m *Meta) { m.Generation = -1 },
		"a NUL in there": func(m *Meta) { m.Disks[1].Name = "a\x00" },
	} {
		m := good.clone()
		spoil(&m)
		data, err := encodeMeta(m)
		if err != nil {
			t.Fatal(err)
		}
		_, err = decodeMeta(data)
		if fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: got %v, want fault.Invalid", name, err)
		}
		if newer := name == "newer"; newer != (fault.HintOf(err) != "") {
			t.Errorf("%s: the hint is %q", name, fault.HintOf(err))
		}
	}
	good.Extra = json.RawMessage(`"` + strings.Repeat("x", maxMeta) + `"`)
	if _, err := encodeMeta(good); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a description that is too long: got %v, want fault.Invalid", err)
	}
}

// TestTwiceTheSameKey decodes descriptions whose fields are there twice: programs would differ in
// what they mean. Keys of the user's maps may differ in case only.
func TestTwiceTheSameKey(t *testing.T) {
	for data, ok := range map[string]bool{
		`{"spec":{"name":"a"},"kind":"disk","Spec":{"name":"b"}}`:                   false,
		`{"spec":{"name":"a"},"kind":"disk","spec":{"name":"b"}}`:                   false,
		`{"spec":{"name":"a","memory":1,"memory":2}}`:                               false,
		`{"spec":{"name":"a"},"\u017fpec":{}}`:                                      false,
		`{"disks":[{"name":"a","size":1},{"name":"b","size":1,"sIze":2}]}`:          false,
		`{"extra":{"vm":"a","vm":"b"}}`:                                             false,
		`{"spec":{"env":{"A":"1","A":"2"}}}`:                                        false,
		`{"spec":{"env":{"A":"1","a":"2"},"labels":{"x":"","X":"env"},"name":"x"}}`: true,
		`{"a":[1,{"b":1},[{"b":2}],{"b":3}],"b":{"b":{"b":null}},"c":"a"}`:          true,
		`{"seal":{"statement":{"meta":{"spec":{"env":{"P":"","p":""}}}}}}`:          true,
		`{"a":`: false,
		`]`:     false,
	} {
		if err := checkKeys([]byte(data)); (err == nil) != ok {
			t.Errorf("%s: %v", data, err)
		}
	}
	inner := []byte(`{"version":1,"created":"2026-01-01T00:00:00Z","kind":"disk","disks":[{"name":"system","size":1}],"spec":{},"spec":{}}`)
	if _, err := decodeMeta(frameMeta(inner)); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), `"spec"`) {
		t.Errorf("two specs: %v; want a refusal that names the field", err)
	}
}

func FuzzMeta(f *testing.F) {
	good := testMeta
	good.Version, good.Kind = version, model.SnapshotDisk
	good.Disks = []Disk{{"system", File{Size: 1}}}
	sum := strings.Repeat("ab", sumLen/2)
	sealed := good
	sealed.Disks = []Disk{{"system", File{Size: 1, Sum: sum, Digest: sum}}}
	sealed.Seal = &Seal{Statement: json.RawMessage(`{"purpose":"<x>","meta":{"spec":{"env":{"A":"B"}}}}`), MAC: sum}
	empty := sealed
	empty.Seal = &Seal{}
	for _, m := range []Meta{good, sealed, empty, {}, {Version: version + 1}} {
		data, err := encodeMeta(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data[len(metaHead)+sumLen+len(metaMid) : len(data)-len(metaTail)])
	}
	f.Add([]byte(`{"version":1,"kind":"disk","created":"2026-01-01T00:00:00Z","disks":[{"name":"a","size":1}],"spec":{"memory":1},"Spec":{"memory":2}}`))
	f.Add([]byte(`{"version":1,"disks":[{"name":"../x"}],"memory":{"size":1e99}}`))
	f.Add([]byte(`{"version":1,"kind":"disk","created":"2026-01-01T00:00:00Z","disks":[{"name":"a","size":1,"digest":"x"}],"seal":{"statement":null,"mac":"\u0000"}}`))
	f.Fuzz(func(t *testing.T, inner []byte) {
		// Try the bytes as they are, and with a right sum around them.
		for _, data := range [][]byte{inner, frameMeta(inner)} {
			m, err := decodeMeta(data)
			if err != nil {
				if fault.KindOf(err) != fault.Invalid {
					t.Errorf("got %v of kind %q, want fault.Invalid", err, fault.KindOf(err))
				}
				continue
			}
			for _, file := range m.files() {
				if filepath.Base(file.name) != file.name || file.Size < 1 || file.Size > file.max {
					t.Errorf("a bad file was accepted: %+v", file)
				}
			}
			again, err := encodeMeta(m)
			if err != nil {
				continue // encoding may make it too long
			}
			if _, err := decodeMeta(again); err != nil {
				t.Errorf("decoding an encoded description: %v", err)
			}
		}
	})
}
