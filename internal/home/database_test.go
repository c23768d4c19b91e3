package home

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"banger/internal/fault"
	"banger/internal/paths"
)

// TestUnusableDatabase claims that the hint for a database that cannot be opened leaves the home as
// it is.
func TestUnusableDatabase(t *testing.T) {
	layout := paths.Layout{State: t.TempDir()}
	if err := os.Mkdir(layout.Database(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := CheckDatabase(layout); fault.KindOf(err) != fault.Denied || !strings.Contains(fault.HintOf(err), "must be a file") {
		t.Errorf("a directory: %v, hint %q", err, fault.HintOf(err))
	}
	err := unusableDatabase("banger.db", &os.PathError{Op: "open", Path: "banger.db", Err: syscall.EACCES})
	if hint := fault.HintOf(err); fault.KindOf(err) != fault.Denied || !strings.Contains(hint, "chmod 600 banger.db") || strings.Contains(hint, "BANGER_HOME") {
		t.Errorf("a database without permissions: %v, hint %q", err, hint)
	}
}
