package kernel

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/step"
)

// fakeApt puts scripts named apt-get, apt-cache, apt-config and dpkg-deb first in PATH. They log
// their arguments.
func fakeApt(t *testing.T, scripts map[string]string) (log string) {
	t.Helper()
	dir := t.TempDir()
	log = filepath.Join(dir, "log")
	for _, name := range []string{"apt-get", "apt-cache", "apt-config", "dpkg-deb"} {
		script := fmt.Sprintf("#!/bin/sh\necho \"%s $*\" >> %s\n%s\n", name, log, scripts[name])
		writeFile(t, filepath.Join(dir, name), []byte(script))
		if err := os.Chmod(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return log
}

// goodApt is a host with fresh lists and a package with a kernel.
func goodApt(t *testing.T) map[string]string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "lists", "host_Packages.lz4"), nil)
	writeFile(t, filepath.Join(dir, "kernel.tar"), kernelTar(t, nil))
	return map[string]string{
		"apt-config": "echo \"LISTS='" + dir + "/lists/'\"",
		"apt-cache":  "printf 'linux-image-cloud-amd64\\n  Depends: linux-image-6.1.0-99-cloud-amd64\\n'",
		"apt-get": `case "$*" in
*--print-uris*) echo "'http://deb.example/pool/l_1%3a6.1_amd64.deb' linux-image-6.1.0-99-cloud-amd64_1%3a6.1.99-1_amd64.deb 5 SHA256:00" ;;
*update*) echo "dlstatus:1:50.5:Lists" >&3 ;;
*download*) echo "dlstatus:1:20.0:Retrieving" >&3; echo noise >&3; printf 12345 > linux-image-6.1.0-99-cloud-amd64_1%3a6.1.99-1_amd64.deb ;;
esac`,
		"dpkg-deb": "cat " + dir + "/kernel.tar",
	}
}

// kernelTar returns the content of a kernel package, with more files if given.
func kernelTar(t testing.TB, more map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, data string) {
		h.Size, h.Mode = int64(len(data)), 0o644
		if err := errors.Join(w.WriteHeader(&h), func() error { _, err := w.Write([]byte(data)); return err }()); err != nil {
			t.Fatal(err)
		}
	}
	image := makeBzImage(testVersion, gzipped(fakeKernel{version: testVersion}.vmlinux()))
	add(tar.Header{Name: "./boot/vmlinuz-" + testVersion, Typeflag: tar.TypeReg}, string(image))
	add(tar.Header{Name: "./boot/config-" + testVersion, Typeflag: tar.TypeReg}, fullConfig("VIRTIO_BLK=m", "VIRTIO_MMIO=m"))
	for name, data := range fakeModules() {
		add(tar.Header{Name: "./usr/lib/modules/" + testVersion + "/kernel/" + name, Typeflag: tar.TypeReg}, string(data))
	}
	add(tar.Header{Name: "./usr/lib/modules/" + testVersion + "/modules.builtin", Typeflag: tar.TypeReg}, "kernel/net/unix/unix.ko\n")
	add(tar.Header{Name: "./usr/lib/modules/" + testVersion + "/build", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, "")
	for name, data := range more {
		add(tar.Header{Name: name, Typeflag: tar.TypeReg}, data)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestPull(t *testing.T) {
	log := fakeApt(t, goodApt(t))
	s := openForTest(t)
	var events []step.Event
	k, err := s.Pull(t.Context(), Debian, func(e step.Event) { events = append(events, e) })
	if err != nil {
		t.Fatal(err)
	}
	if k.Source != "linux-image-6.1.0-99-cloud-amd64 1:6.1.99-1" || !slices.Equal(k.Names, []string{"debian"}) || k.Config == "" || k.Modules == "" {
		t.Errorf("the record is wrong: %+v", k)
	}
	if !slices.ContainsFunc(events, func(e step.Event) bool {
		return e.Step == "kernel/download" && e.Done == 1 && e.Total == 5 && e.Unit == "bytes"
	}) {
		t.Errorf("the download reported no progress: %v", events)
	}
	if got := listDir(t, s.dir); len(got) != 2 {
		t.Errorf("left over: %v", got)
	}
	before, _ := os.ReadFile(log)
	if again, err := s.Pull(t.Context(), Debian, nil); err != nil || again.ID != k.ID {
		t.Errorf("pulling again: %v", err)
	}
	after, _ := os.ReadFile(log)
	if calls := string(after[len(before):]); strings.Contains(calls, "dpkg-deb") || strings.Contains(calls, "update") {
		t.Errorf("the second pull unpacked the same package:\n%s", calls)
	}
}

// TestPullShares checks that one of two simultaneous pulls does the work for both.
func TestPullShares(t *testing.T) {
	log := fakeApt(t, goodApt(t))
	s := openForTest(t)
	var ids [2]string
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			k, err := s.Pull(t.Context(), Debian, nil)
			if err != nil {
				t.Error(err)
			}
			ids[i] = k.ID
		})
	}
	wg.Wait()
	calls, _ := os.ReadFile(log)
	if n := strings.Count(string(calls), "dpkg-deb"); n != 1 || ids[0] != ids[1] || ids[0] == "" {
		t.Errorf("the package was unpacked %d times, for kernels %v", n, ids)
	}
}

func TestPullUpdatesLists(t *testing.T) {
	const noPackage = "echo 'E: Unable to locate package linux-image-cloud-amd64' >&2; exit 100"
	ownLists := "grep -q State::Lists \"$2\" || { " + noPackage + "; }\n"
	tests := []struct {
		name   string
		change func(map[string]string)
		want   string // in the error; "" for success
		update bool
	}{
		{"fresh lists", func(map[string]string) {}, "", false},
		{"no lists", func(s map[string]string) { s["apt-config"] = "echo \"LISTS='/nonexistent/'\"" }, "", true},
		{"lists without the package", func(s map[string]string) { s["apt-cache"] = ownLists + s["apt-cache"] }, "", true},
		{"a source that does not answer", func(s map[string]string) {
			s["apt-cache"] = ownLists + s["apt-cache"]
			s["apt-get"] = strings.Replace(s["apt-get"], "*update*)", "*update*) echo 'E: Failed to fetch other' >&2; exit 100;;\n*never*)", 1)
		}, "", true},
		{"old lists and no network", func(s map[string]string) {
			s["apt-config"] = "echo \"LISTS='/nonexistent/'\""
			s["apt-cache"] = "grep -q State::Lists \"$2\" && { " + noPackage + "; }\n" + s["apt-cache"]
			s["apt-get"] = strings.Replace(s["apt-get"], "*update*)", "*update*) exit 100;;\n*never*)", 1)
		}, "", true},
		{"nothing has it", func(s map[string]string) { s["apt-cache"] = noPackage }, "Unable to locate package linux-image-cloud-amd64", true},
		{"the download is cut", func(s map[string]string) { s["apt-get"] = strings.Replace(s["apt-get"], "12345", "1", 1) }, "but not as", true},
		{"no kernel in the package", func(s map[string]string) { s["dpkg-deb"] = "head -c 1024 /dev/zero" }, "holds no /boot/vmlinuz", false},
		{"a damaged package", func(s map[string]string) {
			s["dpkg-deb"] = "echo 'dpkg-deb: error: not a Debian format archive' >&2; exit 2"
		}, "not a Debian format archive", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			scripts := goodApt(t)
			test.change(scripts)
			log := fakeApt(t, scripts)
			s := openForTest(t)
			_, err := s.Pull(t.Context(), Debian, nil)
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || fault.KindOf(err) == fault.Internal):
				t.Errorf("got %v (%v), want an error with %q", err, fault.KindOf(err), test.want)
			}
			calls, _ := os.ReadFile(log)
			if got := strings.Contains(string(calls), " update"); got != test.update {
				t.Errorf("the lists were updated: %v\n%s", got, calls)
			}
		})
	}
}

func TestPullArguments(t *testing.T) {
	s := openForTest(t)
	if _, err := s.Pull(t.Context(), "arch", nil); fault.KindOf(err) != fault.Invalid {
		t.Errorf("pulling an unknown name: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := s.Pull(t.Context(), Debian, nil); fault.KindOf(err) != fault.Unsupported || fault.HintOf(err) == "" {
		t.Errorf("pulling without apt: %v", err)
	}
}

func TestPullCanceled(t *testing.T) {
	scripts := goodApt(t)
	scripts["apt-cache"] = "exec sleep 600"
	fakeApt(t, scripts)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	s := openForTest(t)
	if _, err := s.Pull(ctx, Debian, nil); fault.KindOf(err) != fault.Canceled {
		t.Errorf("a canceled pull: got %v", err)
	}
	if got := listDir(t, s.dir); len(got) != 1 {
		t.Errorf("left over: %v", got)
	}
}

// TestPackageWithoutRoom: the host runs low on space while a package is unpacked.
func TestPackageWithoutRoom(t *testing.T) {
	full := fault.New(fault.Unavailable, "the host has 1G free").WithHint("banger df")
	content := kernelTar(t, map[string]string{"boot/vmlinuz-2": "x", "lib/modules/2/a.ko": strings.Repeat("x", int(disk.RoomEvery))})
	_, err := readKernelTar(bytes.NewReader(content), t.TempDir(), disk.NewRoom(func() error { return full }))
	if !errors.Is(err, full) || fault.HintOf(err) != full.Hint {
		t.Errorf("unpacking ends with %v and the hint %q, want %v", err, fault.HintOf(err), full)
	}
}

// TestHostilePackage checks that files outside a kernel's places are ignored, and that no path of
// the package reaches the host.
func TestHostilePackage(t *testing.T) {
	dir := t.TempDir()
	k, err := readKernelTar(bytes.NewReader(kernelTar(t, map[string]string{
		"../../../../boot/vmlinuz-2": "second", "/etc/passwd": "x", "./lib/modules/../../evil.ko": "x", "boot/config-x/y": "x", "./boot/../lib/modules/a.ko": "a",
	})), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := listDir(t, dir); !slices.Equal(got, []string{"modules.spool", "vmlinuz"}) {
		t.Errorf("the package made the files %v", got)
	}
	if _, ok := k.tree.modules["evil"]; ok {
		t.Error("a module outside the module directory was accepted")
	}
	if m, ok := k.tree.modules["a"]; !ok {
		t.Error("a module of the kernel is missing")
	} else if data, err := m.read(); err != nil || string(data) != "a" {
		t.Errorf("the module is %q, %v", data, err)
	}
}

func FuzzKernelTar(f *testing.F) {
	f.Add([]byte{})
	f.Add(kernelTar(f, nil)[:2048])
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		readKernelTar(bytes.NewReader(data), dir, nil)
		for _, name := range listDir(t, dir) {
			if name != "modules.spool" && name != "vmlinuz" {
				t.Errorf("the package made the file %q", name)
			}
		}
	})
}

func TestAptConfig(t *testing.T) {
	got := apt{dir: "/var/cache/banger/kernels/.tmp-1/apt"}.config(true)
	golden := filepath.Join("testdata", "apt.conf")
	want, err := os.ReadFile(golden)
	if err != nil || got != string(want) {
		t.Errorf("got\n%s\nwant %s:\n%s (%v)", got, golden, want, err)
	}
}
