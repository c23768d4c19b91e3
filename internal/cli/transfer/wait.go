package transfer

import (
	"context"
	"io"
	"sync"

	"banger/internal/step"
)

// Waits reports when a copy waits for its VM.
type Waits struct {
	Ctx context.Context // with the reporter: see step.WithWaits
	VM  string
}

// For reports that the copy waits, if that lasts, until over is called.
func (w Waits) For(what string) (over func()) {
	return step.Waiting(w.Ctx, what+" VM "+w.VM, 0)
}

// From returns a reader of what the VM sends.
func (w Waits) From(r io.Reader) io.Reader { return fromVM{r, w} }

type fromVM struct {
	io.Reader
	waits Waits
}

func (r fromVM) Read(p []byte) (int, error) {
	defer r.waits.For("data from")()
	return r.Reader.Read(p)
}

// To returns a reader of what is sent to the VM. The VM is waited for between two reads, and before
// the first and after the last one, until over is called.
func (w Waits) To(r io.Reader) (_ io.Reader, over func()) {
	to := &toVM{r: r, waits: w, over: w.For("answer of")}
	return to, func() { to.next(func() {}) }
}

type toVM struct {
	r     io.Reader
	waits Waits
	mu    sync.Mutex
	over  func() // ends the wait under way
}

func (t *toVM) next(over func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over()
	t.over = over
}

func (t *toVM) Read(p []byte) (int, error) {
	t.next(func() {})
	n, err := t.r.Read(p)
	t.next(t.waits.For("answer of"))
	return n, err
}
