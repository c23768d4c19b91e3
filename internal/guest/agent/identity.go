package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/internal/guest/proto"
)

// Requests to the random generator (linux/random.h): _IOW('R', 3, int[2]) and _IO('R', 7).
const (
	rndAddEntropy = 0x40085203
	rndReseedCRNG = 0x5207
)

// addEntropy adds the host's bytes to the kernel's random generator, credits them and reseeds the
// generator. Until then, forks of one snapshot draw equal random bytes.
func addEntropy(seed []byte) error {
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("seeding the random generator: %w", err)
	}
	defer f.Close()
	seed = seed[:min(len(seed), 512)]
	// struct rand_pool_info: bits, bytes, data
	info := binary.NativeEndian.AppendUint32(nil, uint32(8*len(seed)))
	info = binary.NativeEndian.AppendUint32(info, uint32(len(seed)))
	info = append(info, seed...)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), rndAddEntropy, uintptr(unsafe.Pointer(&info[0]))); errno != 0 {
		return fmt.Errorf("seeding the random generator: %w", errno)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), rndReseedCRNG, 0); errno != 0 {
		return fmt.Errorf("reseeding the random generator: %w", errno)
	}
	return nil
}

func setTime(t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err == nil {
		err = unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
	}
	if err != nil {
		return fmt.Errorf("setting the clock: %w", err)
	}
	return nil
}

func setHostname(name string) error {
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	return nil
}

// maxHosts bounds the part of the image's /etc/hosts that is kept.
const maxHosts = 64 << 10

// hostsMark ends our lines in /etc/hosts.
const hostsMark = "# banger"

// writeIdentity writes the files in which programs look for the identity.
func writeIdentity(doc proto.Assume) error {
	if err := replaceFile("/etc/hostname", []byte(doc.Hostname+"\n")); err != nil {
		return err
	}
	image, err := readBounded("/etc/hosts", maxHosts)
	if err != nil {
		return err
	}
	if err := replaceFile("/etc/hosts", hosts(image, doc.Hostname)); err != nil {
		return err
	}
	if len(doc.Networks) > 0 {
		if err := replaceFile("/etc/resolv.conf", resolvConf(doc.Networks)); err != nil {
			return err
		}
	}
	if doc.MachineID == "" {
		return nil
	}
	names := []string{"/etc/machine-id"}
	if _, err := os.Lstat(transientID); err == nil {
		names = append(names, transientID)
	}
	for _, name := range names {
		if err := replaceFile(name, []byte(strings.ToLower(doc.MachineID)+"\n")); err != nil {
			return err
		}
	}
	return nil
}

// transientID is systemd's machine id while it cannot write /etc (machine-id(5)).
const transientID = "/run/machine-id"

// hosts returns the image's /etc/hosts with our lines first. They replace those of an earlier
// identity. The host name has an address of its own, so that it resolves without a network
// (hosts(5)).
func hosts(image []byte, hostname string) []byte {
	out := "127.0.0.1\tlocalhost " + hostsMark + "\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback " + hostsMark + "\n" +
		"127.0.1.1\t" + hostname + " " + hostsMark + "\n"
	for line := range strings.Lines(string(image)) {
		if line = strings.TrimSuffix(line, "\n"); !strings.HasSuffix(line, hostsMark) {
			out += line + "\n"
		}
	}
	return []byte(out)
}

// replaceFile writes a system file. It rewrites a regular file in place, because making one again
// is expensive in an overlay. It replaces anything else, such as a link at /etc/resolv.conf.
func replaceFile(name string, data []byte) error {
	if done, err := rewriteFile(name, data); done {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := os.WriteFile(name, data, 0o644); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

// rewriteFile gives a regular file with one name a new content. It reports whether there is such a
// file.
func rewriteFile(name string, data []byte) (bool, error) {
	f, err := os.OpenFile(name, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false, nil
	}
	defer f.Close()
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 || st.Mode&0o444 != 0o444 {
		return false, nil
	}
	if old, err := io.ReadAll(io.LimitReader(f, int64(len(data)+1))); err == nil && bytes.Equal(old, data) {
		return true, nil
	}
	// The file is not truncated first: overwriting its only block happens in memory, freeing and
	// allocating a block does not.
	if _, err = f.WriteAt(data, 0); err == nil && st.Size > int64(len(data)) {
		err = f.Truncate(int64(len(data)))
	}
	if err != nil {
		return true, fmt.Errorf("writing %s: %w", name, err)
	}
	return true, nil
}

// readBounded reads at most limit bytes of a regular file. A missing file is empty.
func readBounded(name string, limit int64) ([]byte, error) {
	// O_NONBLOCK: the image may have a named pipe here.
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, nil
	}
	data, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return data, nil
}

// writeFile writes a file that the host chose. It follows links and makes missing parent
// directories for the same owner.
func writeFile(f proto.File) error {
	if err := makeParents(filepath.Dir(f.Path), f.UID, f.GID); err != nil {
		return fmt.Errorf("writing %s: %w", f.Path, err)
	}
	file, err := os.OpenFile(f.Path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NONBLOCK|unix.O_NOCTTY, 0o600)
	if err != nil {
		return fmt.Errorf("writing %s: %w", f.Path, err)
	}
	defer file.Close()
	if _, err := file.Write(f.Data); err != nil {
		return fmt.Errorf("writing %s: %w", f.Path, err)
	}
	if err := file.Chown(f.UID, f.GID); err != nil {
		return fmt.Errorf("writing %s: %w", f.Path, err)
	}
	if err := unix.Fchmod(int(file.Fd()), f.Mode&0o7777); err != nil {
		return fmt.Errorf("setting the mode of %s: %w", f.Path, err)
	}
	return nil
}

func makeParents(dir string, uid, gid int) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	if err := makeParents(filepath.Dir(dir), uid, gid); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Chown(dir, uid, gid)
}
