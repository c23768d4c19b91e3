package archive

import (
	"archive/tar"
	"strings"

	"banger/internal/fault"
	"banger/internal/guest/report"
)

// global is a message of the other end.
type global struct {
	name, why string // an entry that was left out, as clean text; "" if the message is another one
	done      bool   // it is the last message
	reported  error  // why the other end ended early
}

// parseGlobal reads the records of a global header. empty reports that no entry came before.
func parseGlobal(records map[string]string, empty bool) (global, error) {
	if msg, ok := records[recordError]; ok {
		return global{done: true, reported: fault.New(report.Kind(records[recordKind]), "%s", report.Text(msg))}, nil
	}
	var g global
	if text, ok := records[recordSkipped]; ok {
		name, why, _ := strings.Cut(text, "\t")
		g.name, g.why = report.Text(name), report.Text(why)
	}
	if _, ok := records[recordEnd]; ok {
		g.done = true
		if empty {
			return g, badArchive("it is empty")
		}
	}
	return g, nil
}

func writeGlobal(tw *tar.Writer, records map[string]string) error {
	return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, Format: tar.FormatPAX, PAXRecords: records})
}

// sparse reports whether an entry has holes in any of the forms of GNU tar. A few bytes of such an
// entry stand for petabytes.
func sparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// checkTarget checks the target of a symbolic link. It may lead anywhere, as in any tree.
func checkTarget(target string) error {
	if target == "" || len(target) > maxTarget || strings.ContainsRune(target, 0) {
		return badArchive("a symbolic link to %s", quoted(target))
	}
	return nil
}
