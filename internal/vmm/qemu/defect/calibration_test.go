package defect

import (
	"strings"
	"testing"
)

// TestBootLost follows consoles that are cut into pieces of various sizes.
func TestBootLost(t *testing.T) {
	const begin, lost = "[    0.000000] Linux version 6.1.0 (gcc) #1 SMP\r\n", early + "0.423637" + timerLost + "\n"
	const programs = "[    1.423637] Run /init as init process\r\n"
	for name, c := range map[string]struct {
		console string
		want    int
	}{
		"a good boot":              {begin + "[ 0.1] x\r\n" + programs, 0},
		"a lost timer":             {begin + "[ 0.1] x\r\n" + lost, 1},
		"the line is not ended":    {begin + strings.TrimSuffix(lost, "\r\n"), 0},
		"lost again and again":     {strings.Repeat(begin+lost, MaxResets+2), MaxResets},
		"lost once":                {begin + lost + begin + programs + lost, 1},
		"a program says so":        {begin + programs + lost, 0},
		"the beginning is missing": {"Linux vers\r\n" + lost, 1},
		"half of it is missing":    {lost[1:], 0},
		"not so early":             {"[  100.423637" + timerLost + "\n", 0},
		"in other words":           {strings.TrimSpace(lost) + "s\r\n" + "# " + lost, 0},
		"a long line":              {strings.TrimSpace(begin) + strings.Repeat("x", 3*maxBootLine) + "\r\n" + lost, 1},
	} {
		for _, size := range []int{1, 7, len(c.console)} {
			var follow Boot
			var got int
			for rest := []byte(c.console); len(rest) > 0; {
				n := min(size, len(rest))
				if follow.Lost(rest[:n]) {
					got++
				}
				rest = rest[n:]
				if len(follow.line) > maxBootLine {
					t.Fatalf("%s: the line that is kept is not bounded: %d bytes", name, len(follow.line))
				}
			}
			if want := min(c.want, (len(c.console)+size-1)/size); got != want {
				t.Errorf("%s, %d bytes at once: the timer counts as lost %d times, not %d", name, size, got, want)
			}
		}
	}
}
