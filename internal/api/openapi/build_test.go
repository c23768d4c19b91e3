package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"banger/internal/api"
)

func TestDocumentIsFresh(t *testing.T) {
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	want, err := build(root)
	if err != nil {
		t.Fatal(err)
	}
	again, err := build(root)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, again) {
		t.Fatal("the same source gives different documents")
	}
	got, err := os.ReadFile("../openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("internal/api/openapi.json is stale; run: go generate ./internal/api")
	}
}

// TestDocumentHoldsTogether follows every reference and looks for every operation.
func TestDocumentHoldsTogether(t *testing.T) {
	var doc struct {
		Paths      map[string]map[string]struct{ OperationID string }
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal(api.Document(), &doc); err != nil {
		t.Fatal(err)
	}
	for _, op := range api.Operations() {
		if got := doc.Paths[op.Path][strings.ToLower(op.Method)].OperationID; got != op.ID {
			t.Errorf("%s %s is operation %q, want %q", op.Method, op.Path, got, op.ID)
		}
	}
	var all any
	if err := json.Unmarshal(api.Document(), &all); err != nil {
		t.Fatal(err)
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				name := strings.TrimPrefix(ref, "#/components/schemas/")
				if _, ok := doc.Components.Schemas[name]; !ok {
					t.Errorf("nothing is at %s", ref)
				}
			}
			for _, child := range v {
				walk(child)
			}
		case []any:
			for _, child := range v {
				walk(child)
			}
		}
	}
	walk(all)
	for _, name := range []string{"VM", "Problem", "StepEvent", "Run", "GuestExecRequest", "GuestExit"} {
		if doc.Components.Schemas[name] == nil {
			t.Errorf("schema %s is missing", name)
		}
	}
}
