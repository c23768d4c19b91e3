package server

import (
	"bytes"
	"errors"
	"testing"

	"banger/internal/api"
	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// TestNoRoom: without space on the host, operations that need it are refused before they begin,
// and those that make space or look work.
func TestNoRoom(t *testing.T) {
	full := fault.New(fault.Unavailable, "the host has 1G free, the floor is 2G").WithHint("banger df")
	w := serve(t, func(c *Config) { c.Room = func() error { return full } })
	ctx := deadline(t)
	for name, do := range map[string]func() error{
		"create":  func() error { _, err := w.client.VMs().Create(ctx, model.Create{Name: "a"}, nil); return err },
		"start":   func() error { _, err := w.client.VMs().Start(ctx, "box", model.Start{}, nil); return err },
		"suspend": func() error { _, err := w.client.VMs().Suspend(ctx, "box", nil); return err },
		"fork":    func() error { _, err := w.client.VMs().Fork(ctx, "box", model.Fork{}, nil); return err },
	} {
		if err := do(); fault.KindOf(err) != full.Kind || fault.HintOf(err) != full.Hint {
			t.Errorf("%s without room: %v with the hint %q, want %v with the hint %q", name, err, fault.HintOf(err), full, full.Hint)
		}
	}
	if calls := w.m.noted(); len(calls) != 0 {
		t.Errorf("operations that were refused reached the manager: %q", calls)
	}
	_, listErr := w.client.VMs().List(ctx)
	_, stopErr := w.client.VMs().Stop(ctx, "box", api.VMStop{}, nil)
	deleteErr := w.client.VMs().Delete(ctx, "box", api.VMDelete{Force: true}, nil)
	if err := errors.Join(listErr, stopErr, deleteErr); err != nil {
		t.Errorf("listing, stopping or deleting without room: %v", err)
	}
}

// TestRoomEndsDuringUpload: the host runs low on space while content arrives.
func TestRoomEndsDuringUpload(t *testing.T) {
	full := fault.New(fault.Unavailable, "the host has 1G free, the floor is 2G").WithHint("banger df")
	asked := 0
	w := serve(t, importing(func(string, api.ImageImport, step.Reporter) error {
		t.Error("the store was asked to import a part of the content")
		return nil
	}), func(c *Config) {
		c.Room = func() error {
			if asked++; asked > 2 {
				return full
			}
			return nil
		}
	})
	_, err := w.client.Images().Import(deadline(t), bytes.NewReader(make([]byte, 3*disk.RoomEvery)), api.ImageImport{}, nil)
	if fault.KindOf(err) != full.Kind || fault.HintOf(err) != full.Hint || asked != 3 {
		t.Errorf("the upload ended with %v and the hint %q after %d questions, want %v with the hint %q", err, fault.HintOf(err), asked, full, full.Hint)
	}
	if left := uploads(t, w.Layout); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
}
