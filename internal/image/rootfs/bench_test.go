package rootfs

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// benchTree is like a small distribution's root filesystem: many small files and some large ones,
// 160 MB.
func benchTree(b *testing.B) []byte {
	b.Helper()
	random := make([]byte, 2<<20)
	rand.Read(random)
	var files []file
	for i := range 8000 {
		size := 2000 + i%20000
		files = append(files, file{name: fmt.Sprintf("usr/lib/d%d/f%d", i%300, i), body: string(random[i : i+size])})
	}
	for i := range 35 {
		files = append(files, file{name: fmt.Sprintf("usr/bin/p%d", i), body: string(random[i:])})
	}
	return makeTar(b, files...)
}

// BenchmarkConvert compares the conversion of an archive with mke2fs -d on an unpacked tree.
func BenchmarkConvert(b *testing.B) {
	archive := benchTree(b)
	compressed := func() []byte {
		var buf bytes.Buffer
		cmd := exec.Command("gzip", "-1")
		cmd.Stdin, cmd.Stdout = bytes.NewReader(archive), &buf
		if err := cmd.Run(); err != nil {
			b.Fatal(err)
		}
		return buf.Bytes()
	}()
	run := func(name string, convert func(c *Conversion) error) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(archive)))
			for b.Loop() {
				out, err := os.Create(filepath.Join(b.TempDir(), "rootfs.ext4"))
				if err != nil {
					b.Fatal(err)
				}
				if err := convert(&Conversion{Limits: Limits{}.WithDefaults(), Out: out}); err != nil {
					b.Fatal(err)
				}
				out.Sync()
				out.Close()
				os.Remove(out.Name())
			}
		})
	}
	run("layers", func(c *Conversion) error { _, err := c.Layers(b.Context(), memLayers(archive)); return err })
	run("layers-gzip", func(c *Conversion) error {
		l := Layer{Open: func(ctx context.Context) (io.ReadCloser, error) { return Decompress(ctx, bytes.NewReader(compressed)) }}
		_, err := c.Layers(b.Context(), []Layer{l})
		return err
	})
	run("stream", func(c *Conversion) error {
		_, _, err := c.Stream(b.Context(), io.NopCloser(bytes.NewReader(archive)))
		return err
	})
	b.Run("unpack-mke2fs", func(b *testing.B) { benchMke2fs(b, archive, nil) })
	b.Run("unpack-mke2fs-gzip", func(b *testing.B) { benchMke2fs(b, compressed, []string{"-z"}) })
}

func benchMke2fs(b *testing.B, archive []byte, flags []string) {
	mke2fs := requireTool(b, "mke2fs")
	b.SetBytes(int64(len(benchTree(b))))
	for b.Loop() {
		dir := b.TempDir()
		tree, out := filepath.Join(dir, "tree"), filepath.Join(dir, "out.ext4")
		os.Mkdir(tree, 0o755)
		unpack := exec.Command("tar", append(flags, "-xf", "-", "-C", tree)...)
		unpack.Stdin = bytes.NewReader(archive)
		if msg, err := unpack.CombinedOutput(); err != nil {
			b.Fatalf("tar: %v %s", err, msg)
		}
		if msg, err := exec.Command(mke2fs, "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d", tree, out, "400M").CombinedOutput(); err != nil {
			b.Fatalf("mke2fs: %v %s", err, msg)
		}
		if f, err := os.OpenFile(out, os.O_WRONLY, 0); err == nil {
			f.Sync()
			f.Close()
		}
		os.RemoveAll(dir)
	}
}
