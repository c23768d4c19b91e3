package step

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestWaiting checks that a wait is reported once it has lasted, with the time when it ends.
func TestWaiting(t *testing.T) {
	for name, c := range map[string]struct {
		lasts time.Duration
		want  []Phase
	}{
		"short": {noticeAfter - 1, nil},
		"long":  {noticeAfter + time.Second, []Phase{Started, Done}},
	} {
		synctest.Test(t, func(t *testing.T) {
			var got []Event
			ctx := WithWaits(t.Context(), func(e Event) { got = append(got, e) })
			until := time.Now().Add(time.Minute).Format(time.TimeOnly)
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			over := Waiting(ctx, "answer", time.Hour)
			time.Sleep(c.lasts)
			synctest.Wait()
			over()
			over()
			time.Sleep(time.Minute)
			synctest.Wait()
			if len(got) != len(c.want) {
				t.Fatalf("a %s wait was reported as %+v", name, got)
			}
			for i, e := range got {
				if e.Phase != c.want[i] || !e.IsWait() || e.Detail != "answer, until about "+until {
					t.Errorf("event %d of a %s wait is %+v", i, name, e)
				}
			}
		})
	}
}

// TestWaitOutlastsItsEnd: once the time that was reported has passed, it is reported no more.
func TestWaitOutlastsItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []Event
		over := Waiting(WithWaits(t.Context(), func(e Event) { got = append(got, e) }), "answer", time.Minute)
		time.Sleep(time.Hour)
		synctest.Wait()
		over()
		if len(got) != 4 {
			t.Fatalf("the wait was reported as %+v", got)
		}
		if e := got[2]; e.Phase != Started || e.Detail != "answer, longer than expected" {
			t.Errorf("the wait that lasts longer was reported as %+v", e)
		}
	})
}

// TestWaitingUnasked waits in an operation whose waits nobody wants to know.
func TestWaitingUnasked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, ctx := range []context.Context{t.Context(), WithWaits(t.Context(), nil)} {
			over := Waiting(ctx, "answer", time.Minute)
			time.Sleep(time.Minute)
			over()
		}
	})
}

func TestIsWait(t *testing.T) {
	for name, want := range map[string]bool{"waiting": true, "box waiting": true, "memory": false, "awaiting": false} {
		if got := (Event{Step: name}).IsWait(); got != want {
			t.Errorf("a step named %q is a wait: %v", name, got)
		}
	}
}
