package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

func (m *manager) Pause(_ context.Context, ref string, report step.Reporter) (model.VM, error) {
	m.note("pause " + ref)
	report.Track("freeze", "")(nil)
	return m.Get(ref)
}

func (m *manager) Resume(_ context.Context, ref string, _ step.Reporter) (model.VM, error) {
	m.note("resume " + ref)
	return m.Get(ref)
}

func (m *manager) Suspend(_ context.Context, ref string, _ step.Reporter) (model.VM, error) {
	m.note("suspend " + ref)
	return m.Get(ref)
}

func (m *manager) Fork(_ context.Context, ref string, req model.Fork, report step.Reporter) (model.Forked, error) {
	m.note(fmt.Sprintf("fork %s %s %d %s %v", ref, req.Name, req.Count, req.Remove, req.Labels))
	parent, err := m.Get(ref)
	if err != nil || req.Count == 0 {
		return model.Forked{}, err
	}
	report.Track("capture", "")(nil)
	return model.Forked{Pause: 9 * time.Millisecond, Children: []model.Child{
		{Name: "a", VM: &parent}, {Name: "b", Kind: string(fault.Exists), Error: "it is taken", Hint: "choose another one"},
	}}, nil
}

func (m *manager) CreateSnapshot(_ context.Context, ref, name string, _ step.Reporter) (model.Snapshot, error) {
	m.note("snapshot " + ref + " " + name)
	return model.Snapshot{Name: name, VM: ref}, nil
}

func (m library) List(context.Context) ([]model.Snapshot, error) { return nil, nil }

func (m library) Get(_ context.Context, ref string) (model.Snapshot, error) {
	if ref == "box" { // a VM has that name
		return model.Snapshot{}, fault.New(fault.NotFound, "no snapshot %q", ref)
	}
	return model.Snapshot{Name: ref}, nil
}

func (m library) Delete(_ context.Context, ref string) (model.Snapshot, error) {
	m.note("delete snapshot " + ref)
	return model.Snapshot{Name: ref}, nil
}

func (m *manager) RestoreSnapshot(_ context.Context, ref string, req model.Restore, _ step.Reporter) (model.Forked, error) {
	m.note(fmt.Sprintf("restore %s into %q %d %v %v", ref, req.Into, req.Count, req.DisksOnly, req.Force))
	return model.Forked{}, nil
}

// ExportSnapshot fails before the first byte of "gone", and after some of "damaged".
func (m library) Export(_ context.Context, ref string, w io.Writer, _ step.Reporter) error {
	if ref == "gone" {
		return fault.New(fault.NotFound, "no snapshot %q", ref)
	}
	if _, err := w.Write(bytes.Repeat([]byte("s"), 1<<20)); err != nil {
		return err
	}
	if ref == "damaged" {
		return fault.New(fault.Invalid, "the sum is wrong")
	}
	return nil
}

// ImportSnapshot accepts what begins with an s.
func (m library) Import(_ context.Context, r io.Reader, name string, _ step.Reporter) (model.Snapshot, error) {
	var first [1]byte
	if _, err := io.ReadFull(r, first[:]); err != nil || first[0] != 's' {
		return model.Snapshot{}, fault.New(fault.Invalid, "it is not an exported snapshot").WithHint("export one")
	}
	n, err := io.Copy(io.Discard, r)
	return model.Snapshot{Name: name, Size: model.Bytes(n + 1)}, err
}

func (m templates) List(context.Context) ([]model.Template, error) { return nil, nil }

func (m templates) Get(_ context.Context, ref, _ string) (model.Template, error) {
	return model.Template{Key: ref}, nil
}

func (m *manager) BuildTemplate(_ context.Context, req model.Create, _ step.Reporter) ([]model.Template, error) {
	m.note("build template " + req.Image)
	return []model.Template{{Key: "u1"}}, nil
}

func (m templates) Delete(_ context.Context, ref, imageID string) (model.Template, error) {
	m.note("delete template " + ref + " or of image " + imageID)
	return model.Template{Key: ref}, nil
}

func (m templates) Prune(_ context.Context, stale bool) (model.Pruned, error) {
	m.note(fmt.Sprintf("prune templates %v", stale))
	return model.Pruned{}, nil
}

// TestHoldCalls is TestCalls for pause, resume, suspend, fork and snapshots.
func TestHoldCalls(t *testing.T) {
	t.Parallel()
	w := serve(t)
	ctx := deadline(t)
	for _, call := range []struct {
		want string
		do   func(c *api.Client) error
	}{
		{"start cold box", func(c *api.Client) error {
			_, err := c.VMs().Start(ctx, "box", model.Start{Cold: true}, nil)
			return err
		}},
		{"pause box", func(c *api.Client) error { _, err := c.VMs().Pause(ctx, "box", nil); return err }},
		{"resume box", func(c *api.Client) error { _, err := c.VMs().Resume(ctx, "box", nil); return err }},
		{"suspend box", func(c *api.Client) error { _, err := c.VMs().Suspend(ctx, "box", nil); return err }},
		{"snapshot box night", func(c *api.Client) error {
			_, err := c.Snapshots().Create(ctx, api.SnapshotCreate{VM: "box", Name: "night"}, nil)
			return err
		}},
		{"delete snapshot night", func(c *api.Client) error { _, err := c.Snapshots().Delete(ctx, "night"); return err }},
		{`restore night into "" 3 true false`, func(c *api.Client) error {
			req := model.Restore{Fork: model.Fork{Count: 3}, DisksOnly: true}
			f, err := c.Snapshots().Restore(ctx, "night", req, api.SnapshotRestore{}, nil)
			if f.Children == nil {
				t.Error("no children came as null")
			}
			return err
		}},
		{`restore night into "box" 0 false false`, func(c *api.Client) error {
			_, err := c.Snapshots().Restore(ctx, "night", model.Restore{Into: "box"}, api.SnapshotRestore{}, nil)
			return err
		}},
		{`restore night into "box" 0 false true`, func(c *api.Client) error {
			_, err := c.Snapshots().Restore(ctx, "night", model.Restore{Into: "box"}, api.SnapshotRestore{Force: true}, nil)
			return err
		}},
		{"build template alpine", func(c *api.Client) error {
			made, err := c.Templates().Build(ctx, model.Create{Image: "alpine"}, nil)
			if len(made) != 1 {
				t.Errorf("made %v", made)
			}
			return err
		}},
		{"delete template i12 or of image i12", func(c *api.Client) error { _, err := c.Templates().Delete(ctx, "i12"); return err }},
		{"prune templates true", func(c *api.Client) error { _, err := c.Templates().Prune(ctx, api.TemplatePrune{}); return err }},
		{"prune templates false", func(c *api.Client) error {
			p, err := c.Templates().Prune(ctx, api.TemplatePrune{All: true})
			if p.Removed == nil {
				t.Error("nothing removed came as null")
			}
			return err
		}},
	} {
		if err := call.do(w.client); err != nil {
			t.Errorf("%s: %v", call.want, err)
		}
		calls := w.m.noted()
		if got := calls[len(calls)-1]; got != call.want {
			t.Errorf("the manager was asked %q, want %q", got, call.want)
		}
	}
	if all, err := w.client.Snapshots().List(ctx); err != nil || all == nil {
		t.Errorf("no snapshots came as %#v, %v", all, err)
	}
	if all, err := w.client.Templates().List(ctx); err != nil || all == nil {
		t.Errorf("no templates came as %#v, %v", all, err)
	}
	if tpl, err := w.client.Templates().Get(ctx, "docker.io/library/alpine:3"); err != nil || tpl.Key != "docker.io/library/alpine:3" {
		t.Errorf("a template by its image: %+v, %v", tpl, err)
	}
	if s, err := w.client.Snapshots().Get(ctx, "night"); err != nil || s.Name != "night" {
		t.Errorf("a snapshot: %+v, %v", s, err)
	}
}

// TestFork checks the answer if one child was made and one was not, with and without steps.
func TestFork(t *testing.T) {
	t.Parallel()
	w := serve(t)
	steps := 0
	for _, report := range []step.Reporter{nil, func(step.Event) { steps++ }} {
		req := model.Fork{Name: "x", Count: 2, Remove: model.RemoveOnStop, Labels: map[string]string{"a": "b"}}
		f, err := w.client.VMs().Fork(deadline(t), "box", req, report)
		if err != nil || f.Pause != 9*time.Millisecond || len(f.Children) != 2 {
			t.Fatalf("forked: %+v, %v", f, err)
		}
		if a, b := f.Children[0], f.Children[1]; a.VM == nil || a.VM.ID != testID || b.VM != nil || b.Kind != string(fault.Exists) || b.Hint == "" {
			t.Errorf("children: %+v", f.Children)
		}
		if calls := w.m.noted(); calls[len(calls)-1] != "fork box x 2 on-stop map[a:b]" {
			t.Errorf("the manager was asked %q", calls[len(calls)-1])
		}
	}
	if steps != 2 {
		t.Errorf("%d steps were reported, not 2", steps)
	}
	if _, err := w.client.VMs().Fork(deadline(t), "nobody", model.Fork{}, nil); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a fork of nothing: %v", err)
	}
}

func TestExport(t *testing.T) {
	t.Parallel()
	w := serve(t)
	for ref, ok := range map[string]bool{"night": true, "damaged": false} {
		body, err := w.client.Snapshots().Export(deadline(t), ref)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(body)
		body.Close()
		if ok != (err == nil) || len(data) != 1<<20 {
			t.Errorf("%s: %d bytes, %v", ref, len(data), err)
		}
		if !ok && (fault.KindOf(err) != fault.Invalid || err.Error() != "the sum is wrong") {
			t.Errorf("%s: the reason is %q, %s", ref, err, fault.KindOf(err))
		}
	}
	if _, err := w.client.Snapshots().Export(deadline(t), "gone"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("an export of nothing: %v", err)
	}
	// A client that ignores trailers must not take half of the answer for all of it.
	conn, err := net.Dial("unix", w.client.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /v1/snapshots/damaged/export HTTP/1.1\r\nHost: %s\r\n\r\n", api.Host)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("without trailers: %d bytes, %v", n, err)
	}
}

// oneByte is a stream of one byte that never ends.
type oneByte struct{ is byte }

func (e oneByte) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = e.is
	}
	return len(p), nil
}

func TestImport(t *testing.T) {
	t.Parallel()
	w := serve(t)
	s, err := w.client.Snapshots().Import(deadline(t), io.LimitReader(oneByte{'s'}, 4<<20), api.SnapshotImport{Name: "a b&c"})
	if err != nil || s.Name != "a b&c" || s.Size != 4*model.MiB {
		t.Errorf("imported %+v, %v", s, err)
	}
	if len(s.Notices) != 1 || !strings.Contains(s.Notices[0].Text, "kernel") {
		t.Errorf("the notices are %+v; want one about the missing kernel", s.Notices)
	}
	// A refusal comes at once, however much is left to send.
	began := time.Now()
	if _, err := w.client.Snapshots().Import(deadline(t), oneByte{'x'}, api.SnapshotImport{}); fault.KindOf(err) != fault.Invalid || fault.HintOf(err) != "export one" {
		t.Errorf("a foreign file: %v", err)
	}
	if took := time.Since(began); took >= bodyTimeout {
		t.Errorf("the refusal came after %v", took)
	}
	if _, err := w.client.Snapshots().Import(deadline(t), strings.NewReader(""), api.SnapshotImport{}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("nothing: %v", err)
	}
}

// TestProblemOfNamesake reports an error about a snapshot that has the name of a VM. It is not
// about the VM.
func TestProblemOfNamesake(t *testing.T) {
	t.Parallel()
	w := serve(t)
	_, err := w.client.Snapshots().Get(deadline(t), "box")
	var problem *api.Error
	if !errors.As(err, &problem) || problem.Problem.VM != "" || fault.KindOf(err) != fault.NotFound {
		t.Errorf("got %v, about VM %q", err, problem.Problem.VM)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	w := serve(t)
	w.usage.Store(&model.DiskUsage{})
	if u, err := w.client.Daemon().Usage(deadline(t)); err != nil || u.Rows == nil {
		t.Errorf("no usage came as %#v, %v", u, err)
	}
	box := model.UsageRow{Kind: model.UsageVM, Name: "box", Own: 5}
	w.usage.Store(&model.DiskUsage{Rows: []model.UsageRow{box}, Total: model.UsageRow{Own: 5}})
	if u, err := w.client.Daemon().Usage(deadline(t)); err != nil || len(u.Rows) != 1 || u.Rows[0] != box || u.Total.Own != 5 {
		t.Errorf("the usage came as %+v, %v", u, err)
	}
}
