package vm

import (
	"os"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	// Each test has a host with a database and disks. Syncing them would only cost time, so they
	// are in memory if there is room.
	var st unix.Statfs_t
	const memory, room = "/dev/shm", 512 << 20
	if os.Getenv("TMPDIR") == "" && unix.Statfs(memory, &st) == nil && st.Bavail*uint64(st.Bsize) > room && unix.Access(memory, unix.W_OK) == nil {
		os.Setenv("TMPDIR", memory)
	}
	goleak.VerifyTestMain(m)
}
