package oplock

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"banger/internal/fault"
)

func TestLockServesInOrder(t *testing.T) {
	var l Lock
	_, release, err := l.Acquire(t.Context(), "first")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var order []int
	var wg sync.WaitGroup
	for i := range 5 {
		wg.Go(func() {
			_, release, err := l.Acquire(t.Context(), "next")
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			order = append(order, i)
			mu.Unlock()
			release()
		})
		waitFor(t, func() bool { return l.Waiting() == i+1 })
	}
	release()
	wg.Wait()
	equal(t, "the number of operations that got the lock", len(order), 5)
	claim(t, slices.IsSorted(order), "the lock served the operations in the order %v", order)
}

func TestLockHonoursTheContext(t *testing.T) {
	var l Lock
	_, release, _ := l.Acquire(t.Context(), "holder")
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error)
	go func() {
		_, _, err := l.Acquire(ctx, "waiter")
		errs <- err
	}()
	waitFor(t, func() bool { return l.Waiting() == 1 })
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("the cancelled wait returned %v", err)
	}
	release()
	if _, release, err := l.Acquire(t.Context(), "after"); err != nil {
		t.Error(err)
	} else {
		release()
	}
}

var errWhy = fault.New(fault.Canceled, "called off")

func TestCallOffEndsTheHolder(t *testing.T) {
	var l Lock
	ctx, release, _ := l.Acquire(t.Context(), "start")
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.CallOff(errWhy, func(h string) bool { return h == "start" })
		_, release, err := l.Acquire(t.Context(), "delete")
		if err != nil {
			t.Error(err)
			return
		}
		release()
	}()
	<-ctx.Done()
	if context.Cause(ctx) != errWhy {
		t.Errorf("the holder was cancelled with %v", context.Cause(ctx))
	}
	release()
	<-done
}

func TestCallOffSparesOthers(t *testing.T) {
	var l Lock
	ctx, release, _ := l.Acquire(t.Context(), "delete")
	l.CallOff(errWhy, func(h string) bool { return h == "start" })
	if ctx.Err() != nil {
		t.Error("a deletion was cancelled, although only starts may be")
	}
	release()
}

func TestClosedLockRefuses(t *testing.T) {
	var l Lock
	_, release, _ := l.Acquire(t.Context(), "delete")
	errs := make(chan error)
	go func() {
		_, _, err := l.Acquire(t.Context(), "waiter")
		errs <- err
	}()
	waitFor(t, func() bool { return l.Waiting() == 1 })
	l.Close()
	release()
	equal(t, "the error's kind of the operation that waited for a closed lock", fault.KindOf(<-errs), fault.NotFound)
	if _, _, err := l.Acquire(t.Context(), "late"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("an operation on a closed lock got %v", err)
	}
}

func TestLockUnderContention(t *testing.T) {
	var l Lock
	held := 0
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 20 {
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Microsecond)
				if _, release, err := l.Acquire(ctx, "op"); err == nil {
					held++
					if held != 1 {
						t.Errorf("%d operations hold the lock at once", held)
					}
					held--
					release()
				}
				cancel()
			}
		})
	}
	wg.Wait()
	claim(t, l.holder == nil, "the lock is still held by %v", l.holder)
	equal(t, "the number of operations that still wait", len(l.waiting), 0)
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the awaited event did not happen within a minute")
		}
	}
}

func claim(t *testing.T, holds bool, otherwise string, args ...any) {
	t.Helper()
	if !holds {
		t.Errorf(otherwise, args...)
	}
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	claim(t, got == want, "%s is %v, not %v", what, got, want)
}
