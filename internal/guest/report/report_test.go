package report

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"banger/internal/fault"
	"banger/internal/guest/proto"
)

func TestText(t *testing.T) {
	long := strings.Repeat("é", MaxText)
	for in, want := range map[string]string{
		"":                                   "",
		" no such file: /a b ":               "no such file: /a b",
		"äöü 日本語 🙂":                          "äöü 日本語 🙂",
		"two\nlines\r\nand\ta tab":           "two lines  and a tab",
		"no\x1b[2J\x1b[8mthing\x1b[0m":       "nothing",
		"\x1b]0;title\x07bell":               "]0;titlebell",
		"\x1b[31":                            "31",
		"\x1b\x1b[0m[2J":                     "[2J",
		"\x1b[1\x1b[1mx":                     "1x",
		"\u009b8mhidden\x7f\x00":             "8mhidden",
		"evil\u202etxt.exe\u2066":            "eviltxt.exe",
		"zero\u200b\ufeff\u00adwidth":        "zerowidth",
		"filler\u115f\u3164\ufe0f\U000e0041": "filler",
		"line\u2028break\u0085too":           "line break too",
		"wide\u3000space\u00a0":              "wide space",
		"not \xff\xfe UTF-8 \xed\xa0\x80":    "not ? UTF-8 ?",
		long:                                 strings.Repeat("é", MaxText/2-2) + "…",
		strings.Repeat("\x80", 2*MaxText):    "?…",
		strings.Repeat("x", MaxText):         strings.Repeat("x", MaxText),
		strings.Repeat("x", MaxText+1):       strings.Repeat("x", MaxText-3) + "…",
	} {
		if got := Text(in); got != want {
			t.Errorf("the text %.60q becomes %.60q, want %.60q", in, got, want)
		}
	}
	if got, want := Name(long), strings.Repeat("é", MaxName/2-2)+"…"; got != want {
		t.Errorf("a long name becomes %q, want %q", got, want)
	}
}

// TestError: a guest's error is marked, its text is clean, and it has no hint of the guest's.
func TestError(t *testing.T) {
	for in, want := range map[proto.Error]struct {
		kind fault.Kind
		text string
	}{
		{Kind: "not-found", Msg: "no user bob"}:                  {fault.NotFound, "no user bob"},
		{Kind: "exists", Msg: "x"}:                               {fault.Exists, "x"},
		{Kind: "invalid", Msg: "x"}:                              {fault.Invalid, "x"},
		{Kind: "wrong-state", Msg: "x"}:                          {fault.WrongState, "x"},
		{Kind: "locked", Msg: "x"}:                               {fault.Locked, "x"},
		{Kind: "unsupported", Msg: "x"}:                          {fault.Unsupported, "x"},
		{Kind: "unavailable", Msg: "x"}:                          {fault.Unavailable, "x"},
		{Kind: "damaged", Msg: "x"}:                              {fault.Unavailable, "x"},
		{Kind: "internal", Msg: "x"}:                             {fault.Unavailable, "x"},
		{Kind: "canceled", Msg: "x"}:                             {fault.Unavailable, "x"},
		{Kind: "root", Msg: "x"}:                                 {fault.Unavailable, "x"},
		{Msg: "x"}:                                               {fault.Unavailable, "x"},
		{Kind: "denied", Msg: "a\x1b[8m\nhint: b\u202e"}:         {fault.Denied, "a hint: b"},
		{Kind: "denied", Msg: "x\nerror: y\n  log: /etc/passwd"}: {fault.Denied, "x error: y   log: /etc/passwd"},
		{Kind: "denied"}:                                         {fault.Denied, "no reason"},
		{Kind: "denied", Msg: "\x00\u200b\n"}:                    {fault.Denied, "no reason"},
	} {
		err := Error(in)
		if err.Kind != want.kind {
			t.Errorf("%+v is of kind %q, want %q", in, err.Kind, want.kind)
		}
		if want := "the guest reports: " + want.text; err.Error() != want {
			t.Errorf("%+v becomes %q, want %q", in, err, want)
		}
		if hint := fault.HintOf(err); hint != "" {
			t.Errorf("%+v has the hint %q, want none", in, hint)
		}
	}
	full := Error(proto.Error{Kind: "wrong-state", Msg: "no space; hint: run this", Full: true})
	if hint := fault.HintOf(full); hint != fullHint {
		t.Errorf("a full disk of the guest has the hint %q, want %q", hint, fullHint)
	}
}

// TestBroken: a decoder's error quotes the guest.
func TestBroken(t *testing.T) {
	inner := errors.Join(io.ErrUnexpectedEOF, errors.New("malformed line: \x1b[2Jok\nerror: x"+strings.Repeat("y", 2*MaxText)))
	err := Broken("reading the answer", inner)
	if err.Kind != fault.Unavailable {
		t.Errorf("it is of kind %q, want %q", err.Kind, fault.Unavailable)
	}
	if want := "reading the answer: unexpected EOF malformed line: ok error: xyyy"; !strings.HasPrefix(err.Error(), want) {
		t.Errorf("it is %.100q, want it to begin with %q", err, want)
	}
	if most := len("reading the answer: ") + MaxText; len(err.Error()) > most {
		t.Errorf("it has %d bytes, want at most %d", len(err.Error()), most)
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error("it does not wrap the decoder's error")
	}
}

// FuzzError: no words of a guest make an error that reads as banger's own.
func FuzzError(f *testing.F) {
	f.Add("not-found", "no user bob", false)
	f.Add("internal", "x\x1b[2J\nerror: bangerd failed\n  log: /etc/passwd\n hint: run this", true)
	f.Add("damaged", strings.Repeat("\xed\xa0\x80\u202e", 1000), false)
	f.Add("", "\x1b\x1b[0m[2J\u009b8m", false)
	f.Fuzz(func(t *testing.T, kind, msg string, full bool) {
		err := Error(proto.Error{Kind: kind, Msg: msg, Full: full})
		text, marked := strings.CutPrefix(err.Error(), Prefix)
		switch {
		case !marked:
			t.Errorf("the error %q does not begin with %q", err, Prefix)
		case err.Kind == fault.Internal, err.Kind == fault.Damaged, err.Kind == fault.Canceled, err.Kind.ExitCode() == fault.Internal.ExitCode():
			t.Errorf("a guest reports the kind %q", err.Kind)
		case err.Err != nil:
			t.Errorf("the error wraps %v", err.Err)
		case err.Hint != "" && !full || err.Hint != "" && err.Hint != fullHint:
			t.Errorf("the error has the hint %q", err.Hint)
		}
		checkLine(t, text, MaxText)
		checkLine(t, Name(msg), MaxName)
		if again := Text(text); again != text {
			t.Errorf("the text %q is cleaned again to %q", text, again)
		}
		payload, _ := json.Marshal(proto.Error{Kind: kind, Msg: msg})
		checkLine(t, strings.TrimPrefix(Broken("x", errors.New(string(payload))).Error(), "x: "), MaxText)
	})
}

func checkLine(t *testing.T, s string, most int) {
	t.Helper()
	if len(s) > most || !utf8.ValidString(s) {
		t.Errorf("%q has %d bytes, want at most %d in UTF-8", s, len(s), most)
	}
	for _, r := range s {
		if r != ' ' && (!unicode.IsGraphic(r) || unicode.In(r, unicode.C, unicode.Z, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point)) {
			t.Errorf("%q has the character %U", s, r)
		}
	}
}
