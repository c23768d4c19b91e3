package template

import (
	"context"
	"time"

	"banger/internal/model"
)

// Notes keeps what is known of images' templates, beside the images. It is safe for concurrent use.
type Notes interface {
	Template(imageID string) (model.ImageTemplate, error)
	SetTemplate(ctx context.Context, imageID string, t model.ImageTemplate) error
}

// Config says what templates a Pool keeps.
type Config struct {
	Off bool // make none and use none
	// of host disk for all templates; the least recently used are removed; 0: no bound
	Budget model.Bytes

	// Standby is how many machines wait, restored from each template in use.
	Standby int

	// BuildsOnly keeps no machine that boots for a VM. Tests of background builds set it.
	BuildsOnly bool

	// Usual has the disk sizes that most VMs have.
	Usual model.Spec

	// Notes keeps what is known of images' templates; nil keeps nothing.
	Notes Notes

	// Room returns an error if the host has too little space for templates. They only save time.
	// Nil: there is always room.
	Room func() error

	// Quiet waits until no operation was under way for d, or ctx ends. Builds begin in such pauses.
	Quiet func(ctx context.Context, d time.Duration) error
}
