// Package record keeps the records of VMs: each in memory, with what is known of its VM beside the
// record, and through Store durably.
//
// # Invariants
//
//   - A change is stored before it is seen in memory. Its state follows model's table, and its
//     revision is the next one.
//   - Who changes an entry holds its operation lock. Anybody may read it.
//   - Shown and not stored are the state recovering, and what ShowBroken and Show set.
//
// # Lock order
//
// Index.mu guards the index, Entry.mu one entry's fields. Both are never held during I/O. Index.mu
// may be held when Entry.mu is taken. Entry.Lock is taken before both.
package record

import (
	"context"

	"banger/internal/model"
)

// Store keeps the records. It is safe for concurrent use. If a call returns nil, the change is
// durable.
type Store interface {
	// PutVM inserts or replaces a record. If another VM has the name, it returns fault.Exists.
	PutVM(ctx context.Context, v model.VM) error
	// VMs returns all records, the oldest first. One unreadable record fails the whole call.
	VMs(ctx context.Context) ([]model.VM, error)
	DeleteVM(ctx context.Context, id string) error
}
