package vm

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
	var l opLock
	_, release, err := l.acquire(t.Context(), "first")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var order []int
	var wg sync.WaitGroup
	for i := range 5 {
		wg.Go(func() {
			_, release, err := l.acquire(t.Context(), "next")
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			order = append(order, i)
			mu.Unlock()
			release()
		})
		waitFor(t, func() bool { return l.queue() == i+1 })
	}
	release()
	wg.Wait()
	equal(t, "the number of operations that got the lock", len(order), 5)
	claim(t, slices.IsSorted(order), "the lock served the operations in the order %v", order)
}

func (l *opLock) queue() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting)
}

func TestLockHonoursTheContext(t *testing.T) {
	var l opLock
	_, release, _ := l.acquire(t.Context(), "holder")
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error)
	go func() {
		_, _, err := l.acquire(ctx, "waiter")
		errs <- err
	}()
	waitFor(t, func() bool { return l.queue() == 1 })
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("the cancelled wait returned %v", err)
	}
	release()
	if _, release, err := l.acquire(t.Context(), "after"); err != nil {
		t.Error(err)
	} else {
		release()
	}
}

func TestCallOffEndsTheHolder(t *testing.T) {
	var l opLock
	ctx, release, _ := l.acquire(t.Context(), "start")
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.callOff(func(h string) bool { return h == "start" })
		_, release, err := l.acquire(t.Context(), "delete")
		if err != nil {
			t.Error(err)
			return
		}
		release()
	}()
	<-ctx.Done()
	if fault.KindOf(context.Cause(ctx)) != fault.Canceled {
		t.Errorf("the holder was cancelled with %v", context.Cause(ctx))
	}
	release()
	<-done
}

func TestCallOffSparesOthers(t *testing.T) {
	var l opLock
	ctx, release, _ := l.acquire(t.Context(), "delete")
	l.callOff(func(h string) bool { return h == "start" })
	if ctx.Err() != nil {
		t.Error("a deletion was cancelled, although only starts may be")
	}
	release()
}

func TestClosedLockRefuses(t *testing.T) {
	var l opLock
	_, release, _ := l.acquire(t.Context(), "delete")
	errs := make(chan error)
	go func() {
		_, _, err := l.acquire(t.Context(), "waiter")
		errs <- err
	}()
	waitFor(t, func() bool { return l.queue() == 1 })
	l.close()
	release()
	wantKind(t, "the operation that waited for a closed lock", <-errs, fault.NotFound)
	if _, _, err := l.acquire(t.Context(), "late"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("an operation on a closed lock got %v", err)
	}
}

func TestLockUnderContention(t *testing.T) {
	var l opLock
	held := 0
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 20 {
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Microsecond)
				if _, release, err := l.acquire(ctx, "op"); err == nil {
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
