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

// TestAwaitGuest ends the waits for guests. Operations that wait for one, or begin to, are called
// off. So are those in the line that may be. Others continue.
func TestAwaitGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		waits, end := context.WithCancelCause(t.Context())
		var held, other Lock
		awaits, works := held.Enqueue(t.Context(), "fork"), other.Enqueue(t.Context(), "snapshot")
		for _, turn := range []*Turn{awaits, works} {
			if err := turn.WaitUnless(waits, true); err != nil {
				t.Fatal(err)
			}
			defer turn.Release()
		}
		over := AwaitGuest(works.Context()) // it answers
		over()
		defer AwaitGuest(awaits.Context())()
		behind, errs := map[bool]*Turn{}, map[bool]chan error{}
		for _, inLine := range []bool{true, false} {
			turn, err := held.Enqueue(t.Context(), "rename"), make(chan error, 1)
			behind[inLine], errs[inLine] = turn, err
			go func() { err <- turn.WaitUnless(waits, inLine) }()
		}
		end(errWhy)
		synctest.Wait()
		equal(t, "the cause of what waits for a guest", context.Cause(awaits.Context()), error(errWhy))
		equal(t, "the error of what waits in the line", <-errs[true], error(errWhy))
		equal(t, "the cause of what is never called off in the line", context.Cause(behind[false].Context()), nil)
		equal(t, "the cause of what waits for no guest", context.Cause(works.Context()), nil)
		AwaitGuest(works.Context())() // it answers in time
		time.Sleep(time.Minute)
		equal(t, "the cause of what has called a guest that answered", context.Cause(works.Context()), nil)
		defer AwaitGuest(works.Context())()
		<-works.Context().Done()
		equal(t, "the cause of what waits for a guest that does not answer", context.Cause(works.Context()), error(errWhy))
		equal(t, "the error of what comes later", other.Enqueue(t.Context(), "fork").WaitUnless(waits, true), error(errWhy))
		awaits.Release()
		if err := <-errs[false]; err != nil {
			t.Errorf("what is never called off in the line failed: %v", err)
		}
		behind[false].Release()
	})
}
