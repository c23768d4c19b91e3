package oplock

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestOutlive checks when what an operation continues without its caller ends.
func TestOutlive(t *testing.T) {
	type key struct{}
	synctest.Test(t, func(t *testing.T) {
		var l Lock
		caller, leave := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
		turn := l.Enqueue(caller, "fork")
		now, cancelNow := Outlive(turn.Context(), 0)
		defer cancelNow()
		soon, cancelSoon := Outlive(turn.Context(), time.Millisecond)
		defer cancelSoon()
		leave()
		synctest.Wait()
		if turn.Context().Err() == nil || now.Err() != nil || soon.Err() != nil {
			t.Error("the caller's end does not end the operation's context, or ends what outlives it")
		}
		equal(t, "a value of the context", now.Value(key{}), any("value"))
		turn.CallOff(errWhy)
		synctest.Wait()
		equal(t, "the cause of what ends at once", context.Cause(now), error(errWhy))
		if soon.Err() != nil {
			t.Error("what has some time left ends at once")
		}
		late, cancelLate := Outlive(turn.Context(), 0)
		defer cancelLate()
		equal(t, "the cause of what begins after the call-off", context.Cause(late), error(errWhy))
		<-soon.Done()
		equal(t, "the cause of what had some time left", context.Cause(soon), error(errWhy))
		turn.Release()
		plain, cancelPlain := Outlive(t.Context(), 0)
		defer cancelPlain()
		if plain.Err() != nil {
			t.Error("without an operation, the context ends")
		}
	})
}
