package transfer

import (
	"context"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"banger/internal/step"
)

// slow is a reader each of whose reads takes a while.
type slow struct {
	io.Reader
	takes time.Duration
}

func (s slow) Read(p []byte) (int, error) {
	time.Sleep(s.takes)
	return s.Reader.Read(p)
}

// TestWaits copies from and to a VM that is silent for a while. Each silence is reported, and the
// time that this side needs is not.
func TestWaits(t *testing.T) {
	for name, c := range map[string]struct {
		vm, here time.Duration // between two reads
		want     int
	}{
		"both are quick":   {time.Millisecond, time.Millisecond, 0},
		"the VM is silent": {time.Minute, time.Millisecond, 3}, // "a", "b" and the end
		"this side is":     {time.Millisecond, time.Minute, 0},
	} {
		for direction, copied := range map[string]func(Waits) error{
			"from": func(w Waits) error {
				_, err := io.Copy(io.Discard, slow{w.From(slow{iotest.OneByteReader(strings.NewReader("ab")), c.vm}), c.here})
				return err
			},
			"to": func(w Waits) error {
				stream, over := w.To(slow{iotest.OneByteReader(strings.NewReader("ab")), c.here})
				_, err := io.Copy(io.Discard, slow{stream, c.vm})
				over()
				return err
			},
		} {
			t.Run(name+"/"+direction, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					said := 0
					ctx := step.WithWaits(context.Background(), func(e step.Event) {
						if e.Phase == step.Started && e.IsWait() && strings.Contains(e.Detail, "VM box") {
							said++
						}
					})
					if err := copied(Waits{ctx, "box"}); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					if said != c.want {
						t.Errorf("%d waits were reported, not %d", said, c.want)
					}
				})
			})
		}
	}
}
