package e2e

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"banger/internal/testkit"
)

// TestFriendliness checks what banger prints to a person who has read no manual.
func TestFriendliness(t *testing.T) {
	h := warm(t)
	ok(t, h, "vm", "create", "--name", "zebra")
	name := strings.TrimSpace(ok(t, h, "vm", "create"))
	matches(t, name, `^[a-z]+-[a-z]+$`)

	t.Run("completion", func(t *testing.T) {
		for _, shell := range []string{"bash", "zsh", "fish"} {
			has(t, ok(t, h, "completion", shell), "banger")
		}
		has(t, ok(t, h, "__complete", "vm", "show", ""), "zebra\t", name)
		has(t, ok(t, h, "__complete", "vm", "show", "ze"), "zebra\t")
		has(t, ok(t, h, "__complete", "vm", "run", "--image", "deb"), testkit.Image)
		has(t, ok(t, h, "__complete", "vm", "run", "--net", ""), "user", "none")
	})
	t.Run("version", func(t *testing.T) {
		matches(t, ok(t, h, "version"), `^banger `)
		equal(t, "--version", ok(t, h, "--version") != "", true)
	})
	t.Run("help documents exit codes", func(t *testing.T) {
		out := ok(t, h, "--help") + ok(t, h, "help", "exit-codes")
		has(t, out, "125", "64", "66", "130")
		has(t, ok(t, h, "vm", "run", "--help"), "--memory", "--work-disk-size", "--timeout", "124")
	})
	t.Run("errors have a hint", func(t *testing.T) {
		for _, c := range []struct {
			args  []string
			words []string
		}{
			{[]string{"vm", "show", "zebrra"}, []string{"zebrra", "zebra", "hint"}},
			{[]string{"vm", "lst"}, []string{"lst", "list"}},
			{[]string{"vm", "run", "--memroy", "1G"}, []string{"memroy", "--memory"}},
			{[]string{"vm", "create", "--memory", "lots"}, []string{"lots", "512M"}},
			{[]string{"vm", "create", "--name", "Not_a_name"}, []string{"Not_a_name", "hint"}},
			{[]string{"vm", "exec", "zebra", "--", "true"}, []string{"zebra", "banger vm start zebra"}},
			{[]string{"vm", "create", "--kernel", "none"}, []string{"none", "kernel"}},
		} {
			fails(t, h, c.args, c.words...)
		}
	})
	t.Run("tables fit the terminal", func(t *testing.T) {
		long := strings.Repeat("long-", 11) + "name"
		ok(t, h, "vm", "create", "--name", long)
		term := h.Terminal(t, "vm", "list")
		term.Resize(t, 24, 60)
		equal(t, "exit status", term.Wait(t), 0)
		for line := range strings.Lines(term.Output()) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\r\n")); n > 80 {
				t.Errorf("a line of %d characters: %q", n, line)
			}
		}
		has(t, ok(t, h, "vm", "list"), long) // output to a file is not cut
		ok(t, h, "rm", long)
	})
	t.Run("NO_COLOR", func(t *testing.T) {
		term := h.Terminal(t, "vm", "list")
		term.Wait(t)
		if regexp.MustCompile("\x1b\\[[0-9;]*m").MatchString(term.Output()) {
			t.Errorf("colours: %q", term.Output())
		}
	})
	ok(t, h, "rm", "zebra", name)
}
