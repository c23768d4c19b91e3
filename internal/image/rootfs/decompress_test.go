package rootfs_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"math/rand/v2"
	"os/exec"
	"testing"

	"github.com/klauspost/compress/zstd"

	"banger/internal/image/rootfs"
	"banger/internal/testkit"
)

// endless repeats compressed data, which is one stream for all decoders. It reports its second
// round.
type endless struct {
	data   []byte
	left   []byte
	rounds int
	begun  chan struct{}
}

func (e *endless) Read(p []byte) (int, error) {
	if len(e.left) == 0 {
		e.left = e.data
		if e.rounds++; e.rounds == 2 {
			close(e.begun)
		}
	}
	n := copy(p, e.left)
	e.left = e.left[n:]
	return n, nil
}

// TestDecompressionIsClosed closes decoders of each kind while they read. The race detector finds
// those that are closed in the middle.
func TestDecompressionIsClosed(t *testing.T) {
	data := make([]byte, 64<<10)
	rand.NewChaCha8([32]byte{}).Read(data)
	for name, compress := range map[string]func() []byte{
		"gzip": func() []byte {
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			z.Write(data)
			z.Close()
			return b.Bytes()
		},
		"zstd": func() []byte {
			z, err := zstd.NewWriter(nil)
			if err != nil {
				t.Fatal(err)
			}
			return z.EncodeAll(data, nil)
		},
		"xz": func() []byte {
			testkit.RequireTool(t, "xz")
			xz := exec.Command("xz", "-0", "--stdout")
			xz.Stdin = bytes.NewReader(data)
			out, err := xz.Output()
			if err != nil {
				t.Fatal(err)
			}
			return out
		},
	} {
		t.Run(name, func(t *testing.T) {
			source := &endless{data: compress(), begun: make(chan struct{})}
			r, err := rootfs.Decompress(t.Context(), source)
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error)
			go func() {
				_, err := io.Copy(io.Discard, r)
				ended <- err
			}()
			<-source.begun
			if err := r.Close(); err != nil {
				t.Error("closing:", err)
			}
			if err := <-ended; err == nil {
				t.Error("the reader reports no error, although it was closed in the middle")
			}
		})
	}
}
