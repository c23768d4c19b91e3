package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/guest/archive"
)

// TestBroken: a stream that is cut at any place is an error.
func TestBroken(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	os.Mkdir(src, 0o755)
	os.WriteFile(filepath.Join(src, "f"), []byte("text"), 0o644)
	var stream bytes.Buffer
	if err := archive.Pack(context.Background(), &stream, src, archive.PackOptions{}); err != nil {
		t.Fatal(err)
	}
	whole := stream.Bytes()
	end := bytes.LastIndex(whole, []byte("BANGER.end"))
	for n := 0; n < end; n += 64 {
		if err := archive.Unpack(context.Background(), bytes.NewReader(whole[:n]), t.TempDir(), archive.UnpackOptions{}); err == nil {
			t.Errorf("a stream cut to %d of %d bytes was accepted", n, len(whole))
		}
	}
}

func TestLimits(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	os.Mkdir(src, 0o755)
	for i := range 10 {
		os.WriteFile(filepath.Join(src, fmt.Sprint(i)), make([]byte, 100), 0o644)
	}
	var stream bytes.Buffer
	ctx := context.Background()
	if err := archive.Pack(ctx, &stream, src, archive.PackOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, l := range []archive.Limits{{MaxEntries: 5}, {MaxBytes: 999}} {
		if err := archive.Unpack(ctx, bytes.NewReader(stream.Bytes()), t.TempDir(), archive.UnpackOptions{Limits: l}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("unpacking within %+v: %v", l, err)
		}
		var again bytes.Buffer
		if err := archive.Pack(ctx, &again, src, archive.PackOptions{Limits: l}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("packing within %+v: %v", l, err)
		}
		if err := archive.Unpack(ctx, &again, t.TempDir(), archive.UnpackOptions{}); err == nil || !strings.Contains(err.Error(), "more than") {
			t.Errorf("the other end hears of %+v: %v", l, err)
		}
	}
}

func TestCanceled(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	sample(t, src)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := archive.Pack(ctx, io.Discard, src, archive.PackOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := archive.Unpack(ctx, strings.NewReader(""), t.TempDir(), archive.UnpackOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
