package machine

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	"banger/internal/fault"
	"banger/internal/model"
)

// Facts are what capabilities have stored for one machine, by the capability's name. A capability
// stores a fact before it makes what the fact describes, so that Cleanup finds it after a crash.
// Facts of machines without a record are in memory only: see Cleaner.
type Facts map[string]model.Fact

// Load decodes a capability's fact into v and returns its version; 0 if none is stored.
// A fact that v cannot hold is fault.Internal.
func (f Facts) Load(capability string, v any) (version int, err error) {
	stored, ok := f[capability]
	if !ok {
		return 0, nil
	}
	if err := json.Unmarshal(stored.Data, v); err != nil {
		return 0, fault.New(fault.Internal, "decoding the fact of %s (version %d): %w", capability, stored.Version, err)
	}
	return stored.Version, nil
}

// With returns the facts with one replaced. An empty fact removes it.
func (f Facts) With(capability string, stored model.Fact) Facts {
	changed := maps.Clone(f)
	if changed == nil {
		changed = Facts{}
	}
	changed[capability] = stored
	if stored.Version == 0 {
		delete(changed, capability)
	}
	return changed
}

// StoreFact makes a capability's fact durable. An empty fact removes it.
type StoreFact func(ctx context.Context, capability string, f model.Fact) error

// FactWriter replaces the fact of the capability that it was given to, and returns when the record
// is durable. Versions begin at 1; version 0 removes the fact.
type FactWriter func(ctx context.Context, version int, v any) error

// NewFactWriter returns the writer of one capability, which stores with put.
func NewFactWriter(capability string, put StoreFact) FactWriter {
	return func(ctx context.Context, version int, v any) error {
		if version == 0 {
			return put(ctx, capability, model.Fact{})
		}
		data, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("encoding the fact of %s: %w", capability, err)
		}
		return put(ctx, capability, model.Fact{Version: version, Data: data})
	}
}
