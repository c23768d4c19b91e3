package sshd_test

import (
	"bytes"
	"path/filepath"
	"testing"
)

// BenchmarkOpenSSH measures a command from the client's start to its end, and 64 MiB by pipe and by
// sftp.
func BenchmarkOpenSSH(b *testing.B) {
	s := serve(b)
	const size = 64 << 20
	src := filepath.Join(b.TempDir(), "src")
	data := randomFile(b, src, size)
	for _, tt := range []struct {
		name string
		size int64
		args []string
	}{
		{"true", 0, []string{"ssh", "vm", "true"}},
		{"pipe", size, []string{"ssh", "vm", "cat >/dev/null"}},
		{"scp there", size, []string{"scp", "-s", src, "vm:far"}},
		{"scp back", size, []string{"scp", "-s", "vm:far", src}},
	} {
		b.Run(tt.name, func(b *testing.B) {
			b.SetBytes(tt.size)
			for b.Loop() {
				cmd := s.client(b, tt.args[0], tt.args[1:]...)
				if tt.name == "pipe" {
					cmd.Stdin = bytes.NewReader(data)
				}
				if got := run(b, cmd); got.code != 0 {
					b.Fatal(got.err)
				}
			}
		})
	}
}
