package vmm

import (
	"slices"
	"strings"

	"banger/internal/fault"
)

// Registry holds the drivers of one daemon. A machine belongs to the driver that started it,
// whatever the default is today: its record keeps the driver's name. It does not change, so it
// needs no lock.
type Registry struct {
	drivers []Driver // the default comes first
}

// NewRegistry returns a registry with a default for new machines. If two drivers have the same
// name, the first of them stays: the default may be listed again among the others.
func NewRegistry(def Driver, others ...Driver) *Registry {
	r := &Registry{drivers: []Driver{def}}
	for _, d := range others {
		if r.find(d.Name()) == nil {
			r.drivers = append(r.drivers, d)
		}
	}
	return r
}

// Default returns the driver for new machines.
func (r *Registry) Default() Driver { return r.drivers[0] }

// All returns every driver, the default first.
func (r *Registry) All() []Driver { return slices.Clone(r.drivers) }

// Named returns the driver with that name. If there is none, the error is fault.Unsupported. It is
// never fault.NotFound: that would mean that a machine has ended, but no one has looked for the
// machine.
func (r *Registry) Named(name string) (Driver, error) {
	if d := r.find(name); d != nil {
		return d, nil
	}
	names := make([]string, len(r.drivers))
	for i, d := range r.drivers {
		names[i] = d.Name()
	}
	return nil, fault.New(fault.Unsupported, "there is no VMM driver %q", name).
		WithHint("Use one of the drivers that this version of banger has: %s.", strings.Join(names, ", "))
}

func (r *Registry) find(name string) Driver {
	i := slices.IndexFunc(r.drivers, func(d Driver) bool { return d.Name() == name })
	if i < 0 {
		return nil
	}
	return r.drivers[i]
}
