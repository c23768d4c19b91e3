package requestid

import (
	"context"
	"strings"
	"testing"
)

func TestNewIsValidAndFresh(t *testing.T) {
	a, b := New(), New()
	if !Valid(a) {
		t.Errorf("the new id %q is not valid", a)
	}
	if a == b {
		t.Errorf("two new ids are both %q", a)
	}
}

func TestValid(t *testing.T) {
	for id, want := range map[string]bool{
		"a": true, "build-7_b.2": true, strings.Repeat("x", 64): true,
		"": false, strings.Repeat("x", 65): false, "a b": false, "a\nb": false, "ä": false, `"`: false, "a=b": false,
	} {
		if got := Valid(id); got != want {
			t.Errorf("Valid(%q) is %v, want %v", id, got, want)
		}
	}
}

func TestContext(t *testing.T) {
	if got := From(context.Background()); got != "" {
		t.Errorf("a context without an id carries %q", got)
	}
	if got := From(context.WithoutCancel(With(context.Background(), "x"))); got != "x" {
		t.Errorf("a context with id x carries %q", got)
	}
}
