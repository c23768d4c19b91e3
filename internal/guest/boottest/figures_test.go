package boottest

import (
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"banger/internal/guest"
	"banger/internal/guest/archive"
	"banger/internal/guest/proto"
)

// TestFigures prints the channel's throughput and the agent's memory. It asserts nothing.
func TestFigures(t *testing.T) {
	if testing.Short() {
		t.Skip("figures only")
	}
	p := requireParts(t)
	m := p.start(t, disks{image: newImage(t, busyboxRoot(t)), system: newDisk(t, "1G")})
	m.assume(nil)
	t.Logf("booted and assumed in %v", time.Since(m.start))
	t.Log(m.sh("grep -E 'VmRSS|RssAnon|RssFile' /proc/1/status"))
	const size = 64 << 20
	start := time.Now()
	if _, err := m.Exec(m.ctx(), proto.ExecRequest{Argv: []string{"cat"}}, guest.IO{Stdin: io.LimitReader(zeros{}, size)}); err != nil {
		t.Fatal(err)
	}
	t.Logf("through cat and back: %.0f MB/s", size/1e6/time.Since(start).Seconds())
	start = time.Now()
	m.sh("cd /tmp; head -c 67108864 /dev/zero > f")
	t.Logf("writing in the guest: %.0f MB/s", size/1e6/time.Since(start).Seconds())
	start = time.Now()
	r, err := m.GetFiles(m.ctx(), "/tmp/f")
	if err != nil {
		t.Fatal(err)
	}
	n, _ := io.Copy(io.Discard, r)
	r.Close()
	t.Logf("out of the guest: %.0f MB/s", float64(n)/1e6/time.Since(start).Seconds())
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "f"), make([]byte, size), 0o644)
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(archive.Pack(m.ctx(), pw, filepath.Join(dir, "f"), archive.PackOptions{})) }()
	start = time.Now()
	if err := m.PutFiles(m.ctx(), "/tmp/", pr); err != nil {
		t.Fatal(err)
	}
	t.Logf("into the guest: %.0f MB/s", size/1e6/time.Since(start).Seconds())
	start = time.Now()
	for range 20 {
		m.sh("true")
	}
	t.Logf("one command: %v", time.Since(start)/20)
	t.Log(m.sh("grep -E 'VmRSS|RssAnon|RssFile' /proc/1/status"))
}
