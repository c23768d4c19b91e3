package agent

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/hook"
	"banger/internal/guest/proto"
)

// minEntropy is how many bytes make a generator unpredictable: 256 bits.
const minEntropy = 32

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

// findIdentityFiles looks up the files that an identity changes, so that the kernel knows whether
// they exist. Otherwise each machine that is restored would read directories from its disk.
func findIdentityFiles() {
	for _, name := range []string{hostnameFile, hostsFile, resolvFile, machineID, transientID, busID, seedFile, hook.Dir} {
		_, _ = os.Lstat(name)
	}
}

// writeIdentity writes the files in which programs look for the identity.
func writeIdentity(doc proto.Assume) error {
	if err := replaceFile(hostnameFile, []byte(doc.Hostname+"\n")); err != nil {
		return err
	}
	image, err := readBounded(hostsFile, maxHosts)
	if err != nil {
		return err
	}
	if err := replaceFile(hostsFile, hosts(image, doc.Hostname)); err != nil {
		return err
	}
	if len(doc.Networks) > 0 {
		if err := replaceFile(resolvFile, resolvConf(doc.Networks)); err != nil {
			return err
		}
	}
	if doc.MachineID == "" {
		return nil
	}
	names := []string{machineID}
	for _, name := range []string{transientID, busID} {
		if info, err := os.Lstat(name); err == nil && info.Mode().IsRegular() {
			names = append(names, name)
		}
	}
	for _, name := range names {
		if err := replaceFile(name, []byte(strings.ToLower(doc.MachineID)+"\n")); err != nil {
			return err
		}
	}
	return nil
}

// Files of every identity.
const (
	hostnameFile = "/etc/hostname"
	hostsFile    = "/etc/hosts"
	resolvFile   = "/etc/resolv.conf"
	machineID    = "/etc/machine-id"
)

// transientID is systemd's machine id while it cannot write /etc (machine-id(5)).
const transientID = "/run/machine-id"

// busID is D-Bus's copy of the machine id, if it is not a link (dbus-uuidgen(1)).
const busID = "/var/lib/dbus/machine-id"

// seedFile is what systemd seeds the random generator with at the next boot
// (systemd-random-seed.service(8)).
const seedFile = "/var/lib/systemd/random-seed"

// renewSeed replaces the seed that a machine shares with the one that it was restored from. Without
// it, the next boot has the host's entropy all the same, so a failure does not matter.
func renewSeed() {
	if info, err := os.Lstat(seedFile); err != nil || !info.Mode().IsRegular() {
		return
	}
	seed := make([]byte, 512)
	rand.Read(seed) // never fails
	_ = writeAtomically(seedFile, string(seed), 0o600)
}

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
