package model

import "encoding/json"

// Fact is what a capability keeps on a VM's record, in a format of its own.
type Fact struct {
	Version int             `json:"version"` // of the format; 1 or more
	Data    json.RawMessage `json:"data"`
}
