package cli

import (
	"testing"
)

// TestForkTold checks that a fork on a terminal reports the length of the pause.
func TestForkTold(t *testing.T) {
	p, _ := sitDown(t, "fork", "--name", "trial", "web")
	p.expect("trial\r\n")
	p.expect("paused web for 9ms\r\n")
	p.leaves(0)
	p, _ = sitDown(t, "snapshot", "restore", "--name", "still", "--disks-only", "night")
	p.expect("still\r\n")
	p.expect("Not started yet. Start: banger vm start still\r\n")
	p.leaves(0)
}

// TestNoBytesOnTerminal checks that exports are not written to or read from a terminal.
func TestNoBytesOnTerminal(t *testing.T) {
	p, _ := sitDown(t, "snapshot", "export", "night")
	p.expect("refusing to write a snapshot to a terminal")
	p.expect("banger snapshot export -o night.banger night")
	p.leaves(64)
	p, _ = sitDown(t, "snapshot", "import", "-")
	p.expect("refusing to read a snapshot from a terminal")
	p.leaves(64)
}
