package machine

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"banger/internal/vmm"
)

// confused is a capability that cannot describe a machine.
type confused struct{}

func (confused) Name() string { return "confused" }

func (confused) ContributeMachine(context.Context, MachineRequest) error { return errors.New("cannot") }

// holder is an instance that has other files open than the disks.
type holder struct{ vmm.Instance }

func (holder) PID() int { return 1 }

func (holder) Others(paths ...string) (map[string]string, error) {
	others := map[string]string{}
	for _, path := range paths {
		others[path] = ""
	}
	return others, nil
}

// TestCheckOpenInDoubt looks at the disks of a machine that cannot be described. No disk counts as
// replaced.
func TestCheckOpenInDoubt(t *testing.T) {
	h := &Host{Capabilities: []Capability{confused{}}, Log: slog.New(slog.DiscardHandler)}
	if err := h.CheckOpen(t.Context(), Subject{ID: "x"}, &Machine{Instance: holder{}}); err != nil {
		t.Errorf("the disks count as replaced: %v", err)
	}
}
