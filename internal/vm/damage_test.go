package vm

import (
	"os"
	"testing"
)

// damages are what can happen to a file. A change of its times alone is no damage.
var damages = []struct {
	name string
	do   func(*testing.T, string)
}{
	{"removed", func(t *testing.T, path string) { damage(t, os.Remove(path)) }},
	{"truncated", func(t *testing.T, path string) {
		info, err := os.Stat(path)
		damage(t, err)
		damage(t, os.Truncate(path, info.Size()-1))
	}},
	{"flipped", func(t *testing.T, path string) {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		damage(t, err)
		defer f.Close()
		var b [1]byte
		_, err = f.ReadAt(b[:], 10)
		damage(t, err)
		b[0] ^= 1
		_, err = f.WriteAt(b[:], 10)
		damage(t, err)
	}},
}

func damage(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
