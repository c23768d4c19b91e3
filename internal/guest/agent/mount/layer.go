package mount

import (
	"path"
	"strconv"
)

// Layer is a directory of a drive that holds what was written in the machine.
type Layer struct {
	Dir   string // where the agent reads it
	Shown string // where the machine's programs see it
}

// Layers are where the machine's programs write to drives: the upper layer of the root, the
// volumes, and the other drives. A volume may be missing.
func (d *Drives) Layers() (list []Layer) {
	for _, m := range d.All() {
		root := "/proc/self/fd/" + strconv.Itoa(int(m.Root.Fd()))
		if m.Target != "" {
			list = append(list, Layer{root + "/.", m.Target})
			continue
		}
		list = append(list, Layer{root + "/" + path.Base(upperDir), "/"})
		for _, v := range volumes {
			list = append(list, Layer{root + "/" + path.Base(volumesDir) + "/" + v.name, v.target})
		}
	}
	return list
}
