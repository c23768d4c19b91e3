package template

import (
	"strconv"
	"strings"

	"banger/internal/fault"
	"banger/internal/model"
)

// refused says why an image has no template.
func refused(image string, note model.ImageTemplate) error {
	if note.Mode == model.TemplateOff {
		return fault.New(fault.Unsupported, "the templates of image %s are turned off", image).
			WithHint("`banger image set --template=auto %s` turns them on", image)
	}
	if len(note.Shared) == 0 && !note.Cut {
		return fault.New(fault.Unsupported, "the init of image %s does not report when its services have started", image).
			WithHint("see docs/forks.md; `banger image set --template=on %s` makes a template all the same", image)
	}
	what := "more files than it could report"
	if len(note.Shared) > 0 {
		quoted := make([]string, len(note.Shared)) // a guest has chosen these names
		for i, file := range note.Shared {
			quoted[i] = strconv.Quote(file)
		}
		what = strings.Join(quoted, ", ")
		if note.Cut {
			what += " and more"
		}
	}
	return fault.New(fault.Unsupported, "the first boot of image %s wrote what its VMs must not share: %s", image, what).
		WithHint("see docs/forks.md; `banger image set --template=on %s` lets its VMs share that", image)
}
