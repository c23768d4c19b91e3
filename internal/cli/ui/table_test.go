package ui

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// golden compares with testdata/NAME, or writes it when BANGER_TEST_UPDATE is set.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("BANGER_TEST_UPDATE") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the output differs from %s: got\n%s\nwant\n%s", path, got, want)
	}
}

func vmTable() Table {
	return Table{
		Columns: []Column{
			{Title: "NAME", Min: 10, Paint: Style.Bold}, {Title: "ID", Drop: 5}, {Title: "STATE", Paint: Style.Green}, {Title: "IMAGE", Min: 12},
			{Title: "VCPU", Right: true, Drop: 3}, {Title: "MEM", Right: true, Drop: 2}, {Title: "NET", Drop: 4}, {Title: "UPTIME", Drop: 1},
		},
		Rows: [][]string{
			{"quiet-otter", "0123abcd", "running", "debian:bookworm", "2", "2G", "user", "2h 10m"},
			{"a-name-that-is-much-longer-than-others", "1123abcd", "stopped", "ghcr.io/organisation/application/service:v1.2.3-rc4", "16", "512M", "none", "-"},
			{"猫のマシン", "2123abcd", "error", "evil\x1b[31m\u202eimage\nx", "1", "1.5G", "user", "-"},
		},
	}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	for _, width := range []int{0, 120, 80, 60, 40, 20} {
		fmt.Fprintf(&b, "-- %d --\n", width)
		if err := vmTable().Write(&b, width, Style{}); err != nil {
			t.Fatal(err)
		}
	}
	golden(t, "tables", b.String())
}

func TestTableFits(t *testing.T) {
	for width := 33; width < 200; width++ {
		var b strings.Builder
		if err := vmTable().Write(&b, width, Style{}); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(b.String()) {
			line = strings.TrimSuffix(line, "\n")
			if Width(line) > width {
				t.Errorf("width %d: %q has %d columns", width, line, Width(line))
			}
			if line != strings.TrimRight(line, " ") {
				t.Errorf("width %d: %q ends in spaces", width, line)
			}
		}
	}
}

func TestColoursDoNotMoveColumns(t *testing.T) {
	var plain, painted strings.Builder
	vmTable().Write(&plain, 80, Style{})
	vmTable().Write(&painted, 80, Style{On: true})
	if painted.String() == plain.String() {
		t.Fatal("nothing was painted")
	}
	var bare strings.Builder
	f := NewFilter(&bare)
	for part := range strings.SplitSeq(painted.String(), "\x1b[") {
		if i := strings.IndexByte(part, 'm'); i >= 0 && i <= 2 && part[0] <= '9' {
			part = part[i+1:]
		}
		f.Write([]byte(part))
	}
	if bare.String() != plain.String() {
		t.Errorf("without colours:\n%s\nwant\n%s", bare.String(), plain.String())
	}
}

func TestPairs(t *testing.T) {
	var b strings.Builder
	Pairs(&b, Style{}, [][2]string{{"name", "web"}, {"left out", ""}, {"id", "1"}})
	if got, want := b.String(), "name  web\nid    1\n"; got != want {
		t.Errorf("pairs are written as %q, want %q", got, want)
	}
}

func TestTimeline(t *testing.T) {
	ms := time.Millisecond
	groups := []Group{
		{"host", []Bar{{Name: "system-disk", Duration: 8 * ms}, {Name: "machine", Offset: 8 * ms, Duration: 52 * ms},
			{Name: "a step with a very long name indeed", Offset: 60 * ms, Duration: 1840 * ms}, {Name: "assume", Offset: 1900 * ms, Duration: 410 * ms, Failed: true}}},
		{"guest", []Bar{{Name: "kernel", Offset: 100 * ms, Duration: 1500 * ms}, {Name: "after\x1b[2J the end", Offset: 3000 * ms}}},
		{"nobody", nil},
	}
	var b strings.Builder
	for _, width := range []int{0, 120, 60, 30} {
		fmt.Fprintf(&b, "-- %d --\n", width)
		if err := Timeline(&b, width, Style{}, groups); err != nil {
			t.Fatal(err)
		}
	}
	golden(t, "timelines", b.String())
	for _, line := range strings.Split(b.String(), "\n") {
		if Width(line) > 119 {
			t.Errorf("%q is wider than 119 columns", line)
		}
	}
	if err := Timeline(&b, 80, Style{}, nil); err != nil {
		t.Fatal(err)
	}
}
