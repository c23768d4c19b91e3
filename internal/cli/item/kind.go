// Package item holds the commands that are the same for all kinds of items that the daemon keeps:
// list, show, delete, prune, and the same work on each item named. It also completes names and adds
// the nearest name to an error. Package cli describes each kind of item as a Kind, in vms.go,
// image.go, kernel.go, snapshot.go and template.go.
package item

import (
	"context"
	"time"

	"banger/internal/api"
	"banger/internal/cli/ui"
	"banger/internal/model"
)

// Kind describes one kind of item that the daemon keeps, such as images. A field may be unset
// if no command that is made from the kind needs it.
type Kind[T any] struct {
	Group     string // the command that holds the kind's commands: "image"
	One, Many string // with the article: "an image", "images"
	Arg       string // the argument that names an item: "REF"
	Example   string // of a name
	Label     string // what `list --quiet` prints: "names"
	None      string // the note when there are no items

	List   func(*api.Client, context.Context) ([]T, error)
	Get    func(*api.Client, context.Context, string) (T, error)
	Remove func(*api.Client, context.Context, string) error

	Name  func(T) string   // as commands print it
	Names func(T) []string // all that completion offers
	About func(T) string   // the explanation beside a name in completion
	Size  func(T) model.Bytes
	// Notices are about the operation that returned the item.
	Notices func(T) []model.Notice
	// Tag gives an item a name.
	Tag func(client *api.Client, ctx context.Context, ref, name string) (T, error)

	Keep  func() (func(T) bool, error) // reads the filter flags of list; nil: list all
	Table func(items []T, now time.Time) ui.Table
	Note  func(T) string // what list says about an item besides its row; nil, or "": nothing
	Print Printer[T]
	// Explain adds a hint to an error about ref; nil: nearestName.
	Explain func(ctx context.Context, client *api.Client, ref string, err error) error
}
