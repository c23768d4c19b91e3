package render

import (
	"time"

	"banger/internal/cli/ui"
	"banger/internal/model"
)

// Images lists images, with a row for each of their names.
func Images(images []model.Image, now time.Time) ui.Table {
	t := ui.Table{Columns: []ui.Column{
		{Title: "NAME", Min: 16, Paint: ui.Style.Bold}, {Title: "ID", Drop: 2, Paint: ui.Style.Dim},
		{Title: "SOURCE", Drop: 4}, {Title: "INIT", Drop: 3}, {Title: "SIZE", Right: true}, {Title: "AGE", Drop: 1},
	}}
	for _, i := range images {
		names := i.Names
		if len(names) == 0 {
			names = []string{"-"}
		}
		for _, name := range names {
			t.Rows = append(t.Rows, []string{
				ShortRef(name), ShortHash(i.ID), i.Source, dash(i.Init), i.Size.String(), ui.Age(now.Sub(i.Created)),
			})
		}
	}
	return t
}

// Image lists an image's properties.
func Image(i model.Image, style ui.Style, now time.Time) [][2]string {
	return [][2]string{
		{"name", style.Bold(cleanList(i.Names, ", "))},
		{"id", i.ID},
		{"source", ui.Clean(i.Source)},
		{"digest", ui.Clean(i.Digest)},
		{"size", i.Size.String()},
		{"init", dash(ui.Clean(i.Init))},
		{"entrypoint", quoted(i.Config.Entrypoint)},
		{"cmd", quoted(i.Config.Cmd)},
		{"workdir", ui.Clean(i.Config.WorkingDir)},
		{"user", ui.Clean(i.Config.User)},
		{"env", cleanList(i.Config.Env, "\n            ")},
		{"created", moment(&i.Created, now)},
		{"file", ui.Clean(i.Path)},
		{"template", imageTemplate(i.Template)},
	}
}

// imageTemplate says which template VMs of an image start from, and why.
func imageTemplate(t *model.ImageTemplate) string {
	const indent = "\n            "
	switch {
	case t == nil:
		return ""
	case t.Mode == model.TemplateOff:
		return "off: VMs start from the universal template, or boot"
	case t.Refused() && len(t.Shared) == 0 && !t.Cut:
		return "none: its init does not report when its services have started"
	case t.Refused():
		text := "none: its first boot wrote what its VMs must not share"
		for _, file := range t.Shared {
			text += indent + "  " + ui.Clean(file)
		}
		if t.Cut {
			text += indent + "  and more"
		}
		return text
	}
	text := string(t.Mode) + ": none yet"
	if len(t.Keys) > 0 {
		text = string(t.Mode) + ": " + cleanList(t.Keys, ", ")
	}
	if len(t.Shared) > 0 {
		text += indent + "its VMs share " + cleanList(t.Shared, ", ")
	}
	return text
}
