package cli

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"banger/internal/fault"
)

// TestExportCutOff ends an export without a reason, as when the daemon dies. No file may be left.
func TestExportCutOff(t *testing.T) {
	dir := t.TempDir()
	stream := exported{t.Context(), io.MultiReader(strings.NewReader("half"), iotest.ErrReader(io.ErrUnexpectedEOF))}
	_, err := writeWhole(filepath.Join(dir, "night.banger"), stream)
	if fault.KindOf(err) != fault.Unavailable || !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(fault.HintOf(err), "daemon logs") {
		t.Errorf("%v, hint %q", err, fault.HintOf(err))
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("leftovers: %v, %v", entries, err)
	}
}
