package hook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/internal/guest/agent/proc"
	"banger/internal/testkit"
)

// testHooks returns hooks and a directory with one, which regenerates a file and runs until the
// file "go" is beside it.
func testHooks(t *testing.T) (*Service, string) {
	table := proc.NewTable(slog.New(slog.DiscardHandler))
	t.Cleanup(table.Close)
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\n# regenerates /opt/key\nwhile ! [ -e %s/go ]; do sleep 0.01; done\n", dir)
	if err := os.WriteFile(filepath.Join(dir, "10-key"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	h := &Service{
		Log: slog.New(slog.DiscardHandler), Runner: func() *proc.Runner { return &proc.Runner{Table: table} }, Console: os.DevNull,
	}
	return h, dir
}

// TestHooksWithoutConsole: hooks that cannot run fail a fork only if one of them regenerates files.
func TestHooksWithoutConsole(t *testing.T) {
	h, dir := testHooks(t)
	h.Console = filepath.Join(dir, "missing")
	if err := h.Run(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a hook that regenerates files returned %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "10-key"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := h.Run(dir); err != nil {
		t.Errorf("a hook that regenerates nothing returned %v", err)
	}
}

// TestEndHooks: the host asks to end hooks that have run for a time. Those that have run for less
// are not ended: the assume before them took the time.
func TestEndHooks(t *testing.T) {
	for query, want := range map[string]string{
		"?after=1h":  "",
		"?after=1ms": "take too long",
		"":           "take too long", // an earlier host
		"?after=x":   "",
	} {
		t.Run(query, func(t *testing.T) {
			h, dir := testHooks(t)
			done := make(chan error, 1)
			go func() { done <- h.Run(dir) }()
			testkit.WaitFor(t, 20*time.Second, "the hook runs", func() bool { return h.running.Load() != nil })
			gone, cancel := context.WithCancel(t.Context())
			if strings.Contains(query, "1h") {
				cancel() // the request ends without having waited
			}
			defer cancel()
			_, err := h.End(httptest.NewRequest(http.MethodPost, "/v1/endhooks"+query, nil).WithContext(gone))
			if refused := err != nil; refused != (query == "?after=x") {
				t.Errorf("the request returned %v", err)
			}
			if want == "" {
				if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if err := <-done; want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("the hooks returned %v, want %q", err, want)
			}
		})
	}
	h, _ := testHooks(t)
	if _, err := h.End(httptest.NewRequest(http.MethodPost, "/v1/endhooks?after=1h", nil)); err != nil {
		t.Errorf("without hooks: %v", err)
	}
}
