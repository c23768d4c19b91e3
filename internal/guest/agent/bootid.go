package agent

import (
	"crypto/rand"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Files of the boot id. bangerDir holds the agent's own files.
const (
	bangerDir    = "/run/banger"
	bootIDFile   = bangerDir + "/boot_id"
	kernelBootID = "/proc/sys/kernel/random/boot_id"
)

// coverBootID mounts a file of ours over the boot id, which the kernel never changes. The file
// holds the same id until the machine becomes a fork.
func coverBootID() error {
	id, err := os.ReadFile(kernelBootID)
	if err != nil {
		return fmt.Errorf("reading the boot id: %w", err)
	}
	if err := writeAtomically(bootIDFile, string(id), 0o444); err != nil {
		return err
	}
	if err := unix.Mount(bootIDFile, kernelBootID, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("covering the boot id: %w", err)
	}
	return nil
}

// renewBootID gives the machine another boot id by overwriting our file. If root in the guest has
// unmounted the file, renewBootID mounts it again.
func renewBootID() error {
	id := newUUID() + "\n"
	if f, err := os.OpenFile(bootIDFile, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0); err == nil {
		_, err = f.WriteAt([]byte(id), 0)
		f.Close()
		if got, readErr := os.ReadFile(kernelBootID); err == nil && readErr == nil && string(got) == id {
			return nil
		}
	}
	unix.Unmount(kernelBootID, unix.MNT_DETACH)
	if err := coverBootID(); err != nil {
		return err
	}
	return os.WriteFile(kernelBootID, []byte(id), 0o444)
}

// newUUID returns a random UUID (RFC 9562, section 5.4) in the kernel's notation.
func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
