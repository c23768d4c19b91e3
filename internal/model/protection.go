package model

// Protection is what keeps a VMM that a guest has taken over from the rest of the host: all layers
// that there are, whether they are on or not.
type Protection []Layer

// Layer is one part of a Protection.
type Layer struct {
	Name LayerName `json:"name"`
	On   bool      `json:"on"`
	Note string    `json:"note,omitempty"` // why it is off
}

// LayerName names what a layer protects.
type LayerName string

// The layers.
const (
	LayerFiles   LayerName = "files"        // files other than the VMM's own
	LayerDevices LayerName = "devices"      // devices of files that were open before
	LayerSignals LayerName = "signals"      // other processes against all signals; abstract sockets
	LayerCalls   LayerName = "system calls" // unix sockets, other processes, mounts, namespaces
	LayerMemory  LayerName = "memory"       // the memory file that machines share, against writing
)

// On returns the names of the layers that are on.
func (p Protection) On() []LayerName {
	var names []LayerName
	for _, l := range p {
		if l.On {
			names = append(names, l.Name)
		}
	}
	return names
}

// Missing returns the layers that are off.
func (p Protection) Missing() []Layer {
	var list []Layer
	for _, l := range p {
		if !l.On {
			list = append(list, l)
		}
	}
	return list
}
