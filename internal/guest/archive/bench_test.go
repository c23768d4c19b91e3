package archive_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"banger/internal/guest/archive"
	"banger/internal/testkit"
)

// BenchmarkCopy compares with tar | tar.
func BenchmarkCopy(b *testing.B) {
	for _, tt := range []struct {
		name        string
		files, size int
	}{{"one file of 64 MiB", 1, 64 << 20}, {"5000 files of 4 KiB", 5000, 4 << 10}} {
		src := filepath.Join(b.TempDir(), "src")
		data := make([]byte, tt.size)
		for i := range tt.files {
			d := filepath.Join(src, fmt.Sprint(i/100))
			os.MkdirAll(d, 0o755)
			os.WriteFile(filepath.Join(d, fmt.Sprint(i)), data, 0o644)
		}
		total := int64(tt.files) * int64(tt.size)
		each := func(b *testing.B, copy func(dst string) error) {
			b.SetBytes(total)
			dst := b.TempDir()
			n := 0
			for b.Loop() {
				n++
				target := filepath.Join(dst, fmt.Sprint(n))
				os.Mkdir(target, 0o755)
				if err := copy(target); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				os.RemoveAll(target)
				b.StartTimer()
			}
		}
		b.Run(tt.name+"/archive", func(b *testing.B) {
			each(b, func(dst string) error { return copyTree(src, dst, archive.UnpackOptions{}) })
		})
		b.Run(tt.name+"/tar", func(b *testing.B) {
			testkit.RequireTool(b, "tar")
			each(b, func(dst string) error {
				return exec.Command("sh", "-c", `tar -c -C "$1" . | tar -x -C "$2"`, "sh", src, dst).Run()
			})
		})
		b.Run(tt.name+"/pack", func(b *testing.B) {
			b.SetBytes(total)
			for b.Loop() {
				archive.Pack(context.Background(), io.Discard, src, archive.PackOptions{})
			}
		})
	}
}

// BenchmarkClean passes a packed tree on.
func BenchmarkClean(b *testing.B) {
	for _, tt := range []struct {
		name        string
		files, size int
	}{{"one file of 64 MiB", 1, 64 << 20}, {"5000 files of 4 KiB", 5000, 4 << 10}} {
		src := filepath.Join(b.TempDir(), "src")
		for i := range tt.files {
			d := filepath.Join(src, fmt.Sprint(i/100))
			os.MkdirAll(d, 0o755)
			os.WriteFile(filepath.Join(d, fmt.Sprint(i)), make([]byte, tt.size), 0o644)
		}
		var packed bytes.Buffer
		if err := archive.Pack(context.Background(), &packed, src, archive.PackOptions{}); err != nil {
			b.Fatal(err)
		}
		b.Run(tt.name, func(b *testing.B) {
			b.SetBytes(int64(tt.files) * int64(tt.size))
			for b.Loop() {
				if err := archive.Clean(context.Background(), io.Discard, bytes.NewReader(packed.Bytes()), archive.CleanOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
