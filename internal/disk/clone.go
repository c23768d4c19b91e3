package disk

import (
	"context"
	"fmt"
	"os"
)

// Clone makes dst a copy of the file src, as CloneFile does, durably and in one moment. What is at dst is replaced. src must not change
// meanwhile.
func Clone(ctx context.Context, src, dst string) error {
	from, err := os.Open(src)
	if err != nil {
		return fmt.Errorf("cloning disk: %w", notFound(err))
	}
	defer from.Close()
	err = replace(dst, func(to *os.File) error { return CloneFile(ctx, from, to) })
	if err != nil {
		return fmt.Errorf("cloning disk %s to %s: %w", src, dst, NoSpace(err, dst))
	}
	return nil
}
