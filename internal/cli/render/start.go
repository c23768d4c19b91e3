package render

import (
	"fmt"
	"io"
	"slices"

	"banger/internal/cli/ui"
	"banger/internal/model"
)

// Steps lists the steps of the last start with their durations.
func Steps(w io.Writer, columns int, style ui.Style, vm model.VM, rel Relatives) error {
	if vm.Boot == nil {
		return nil
	}
	fmt.Fprintf(w, "\n%s\n", style.Bold(bootTitle(vm.Boot, rel)))
	t := ui.Table{Columns: []ui.Column{{Title: "STEP", Min: 8}, {Title: "AT", Right: true}, {Title: "TOOK", Right: true}}}
	all := slices.Concat(vm.Boot.Steps, vm.Boot.Guest)
	if slices.ContainsFunc(all, func(s model.Span) bool { return s.Error != "" }) {
		t.Columns = append(t.Columns, ui.Column{Title: "ERROR", Min: 8, Paint: ui.Style.Red})
	}
	row := func(prefix string, s model.Span) {
		cells := []string{prefix + s.Name, ui.Duration(s.Offset), ui.Duration(s.Duration), s.Error}
		t.Rows = append(t.Rows, cells[:len(t.Columns)])
	}
	for _, s := range vm.Boot.Steps {
		row("", s)
	}
	for _, s := range vm.Boot.Guest {
		row("guest: ", s)
	}
	return t.Write(w, columns, style)
}

func bootTitle(b *model.Boot, rel Relatives) string {
	return fmt.Sprintf("last start %s, %s", ui.Duration(b.Duration), rel.origin(b))
}

// maxTimeline is the number of columns past which a timeline is hard to read.
const maxTimeline = 160

// Timeline draws the steps of the last start.
func Timeline(w io.Writer, columns int, style ui.Style, vm model.VM, rel Relatives) error {
	fmt.Fprintf(w, "%s: %s\n\n", style.Bold(ui.Clean(vm.Spec.Name)), bootTitle(vm.Boot, rel))
	return ui.Timeline(w, min(columns, maxTimeline), style, []ui.Group{
		{Name: "host", Bars: bars(vm.Boot.Steps)},
		{Name: "guest", Bars: bars(vm.Boot.Guest)},
	})
}

func bars(spans []model.Span) []ui.Bar {
	out := make([]ui.Bar, len(spans))
	for i, s := range spans {
		out[i] = ui.Bar{Name: s.Name, Offset: s.Offset, Duration: s.Duration, Failed: s.Error != ""}
	}
	return out
}
