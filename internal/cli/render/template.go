package render

import (
	"slices"
	"strconv"
	"time"

	"banger/internal/cli/ui"
	"banger/internal/model"
)

// Templates lists templates. STANDBY is shown only if a machine is on standby.
func Templates(templates []model.Template, now time.Time) ui.Table {
	t := ui.Table{Columns: []ui.Column{
		{Title: "KEY", Paint: ui.Style.Bold}, {Title: "IMAGE", Min: 12}, {Title: "KERNEL", Drop: 6},
		{Title: "VCPU", Right: true, Drop: 3}, {Title: "MEM", Right: true, Drop: 2}, {Title: "NET", Drop: 5},
		{Title: "SIZE", Right: true}, {Title: "USES", Right: true, Drop: 4}, {Title: "USED", Drop: 1},
	}}
	if slices.ContainsFunc(templates, func(t model.Template) bool { return t.Standby > 0 }) {
		t.Columns = append(t.Columns, ui.Column{Title: "STANDBY", Right: true, Drop: 7})
	}
	for _, tpl := range templates {
		used, uses := "not yet", "-"
		switch {
		case tpl.Building:
			used = "being made"
		case tpl.LastUsed.After(tpl.Created):
			used = ui.Age(now.Sub(tpl.LastUsed)) + " ago"
		}
		if tpl.Uses > 0 {
			uses = strconv.Itoa(tpl.Uses)
		}
		row := []string{
			ShortHash(tpl.Key), TemplateImage(tpl), tpl.Kernel, strconv.Itoa(tpl.VCPUs), tpl.Memory.String(), string(tpl.Net),
			tpl.Size.String(), uses, used, strconv.Itoa(tpl.Standby),
		}
		t.Rows = append(t.Rows, row[:len(t.Columns)])
	}
	return t
}

// TemplateImage returns the name of the image that a template serves.
func TemplateImage(t model.Template) string {
	if t.Kind == model.TemplateUniversal {
		return "any"
	}
	return imageName(t.Image, t.ImageID, t.ImageMoved)
}

// Template lists a template's properties.
func Template(t model.Template, style ui.Style, now time.Time) [][2]string {
	image := "any"
	if t.Kind != model.TemplateUniversal {
		image = namedImage(t.Image, t.ImageID, t.ImageMoved)
	}
	pairs := [][2]string{
		{"key", style.Bold(ui.Clean(t.Key))},
		{"image", image},
		{"kernel", named(t.Kernel, t.KernelID)},
		{"vcpus", strconv.Itoa(t.VCPUs)},
		{"memory", t.Memory.String()},
		{"network", string(t.Net)},
	}
	if t.Kind != model.TemplateUniversal {
		pairs = append(pairs, [2]string{"disk", t.DiskSize.String()}, [2]string{"work disk", workDisk(t.WorkDiskSize)})
	}
	pairs = append(pairs, [][2]string{
		{"size", t.Size.String()},
		{"created", moment(&t.Created, now)},
	}...)
	switch {
	case t.Building:
		pairs = append(pairs, [2]string{"state", style.Yellow("being made")})
	case t.LastUsed.After(t.Created):
		pairs = append(pairs, [2]string{"last used", moment(&t.LastUsed, now)})
	}
	if t.Uses > 0 {
		pairs = append(pairs, [2]string{"uses", strconv.Itoa(t.Uses)})
	}
	if t.Standby > 0 {
		pairs = append(pairs, [2]string{"on standby", strconv.Itoa(t.Standby)})
	}
	return pairs
}
