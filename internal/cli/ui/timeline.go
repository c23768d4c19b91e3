package ui

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// Bar is one stretch of a timeline.
type Bar struct {
	Name     string
	Offset   time.Duration
	Duration time.Duration
	Failed   bool
}

// Group holds the bars of one actor, such as the host.
type Group struct {
	Name string
	Bars []Bar
}

// plainTimeline is the width of a timeline if the output is no terminal.
const plainTimeline = 80

// Timeline draws groups of bars on one scale, which begins at 0.
func Timeline(w io.Writer, width int, style Style, groups []Group) error {
	if width <= 0 {
		width = plainTimeline
	}
	names, ends, total := 0, 0, time.Duration(0)
	for _, g := range groups {
		for i := range g.Bars {
			g.Bars[i].bound()
			bar := g.Bars[i]
			names = max(names, Width(Clean(bar.Name)))
			ends = max(ends, Width(Duration(bar.Duration)))
			total = max(total, bar.Offset+bar.Duration)
		}
	}
	names = min(names, max(8, width/3))
	room := width - 1 - 2 - names - 2 - 2 - ends
	var b strings.Builder
	if room < 10 || total <= 0 {
		room = 0
	} else {
		b.WriteString(strings.Repeat(" ", 2+names+2) + style.Dim(scale(total, room)) + "\n")
	}
	paints := []func(string) string{style.Cyan, style.Green, style.Yellow}
	for i, g := range groups {
		if len(g.Bars) == 0 {
			continue
		}
		b.WriteString(style.Bold(Clean(g.Name)) + "\n")
		for _, bar := range g.Bars {
			paint := paints[i%len(paints)]
			if bar.Failed {
				paint = style.Red
			}
			name := pad(Fit(Clean(bar.Name), names), names, false)
			b.WriteString("  " + name + gap + stretch(bar, total, room, paint) + gap + pad(Duration(bar.Duration), ends, true) + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// longestBar keeps sums of times within their type. Some times come from guests.
const longestBar = 100 * 365 * 24 * time.Hour

func (b *Bar) bound() {
	b.Offset = min(max(b.Offset, -longestBar), longestBar)
	b.Duration = min(max(b.Duration, 0), longestBar)
}

// stretch draws a bar in room columns, at least one wide.
func stretch(bar Bar, total time.Duration, room int, paint func(string) string) string {
	if room == 0 {
		return ""
	}
	at := func(d time.Duration) int {
		d = min(max(d, 0), total)
		return int(math.Round(float64(d) / float64(total) * float64(room)))
	}
	from := min(at(bar.Offset), room-1)
	to := max(at(bar.Offset+bar.Duration), from+1)
	return strings.Repeat(" ", from) + paint(strings.Repeat("━", to-from)) + strings.Repeat(" ", room-to)
}

// scale writes round times above the columns that they belong to.
func scale(total time.Duration, room int) string {
	unit := roundStep(total, max(1, room/10))
	line := []byte(strings.Repeat(" ", room))
	for t := time.Duration(0); t <= total; t += unit {
		text := tickText(t)
		at := int(math.Round(float64(t) / float64(total) * float64(room)))
		if at+len(text) > room {
			break
		}
		copy(line[at:], text)
	}
	return strings.TrimRight(string(line), " ")
}

func tickText(t time.Duration) string {
	switch {
	case t == 0:
		return "0"
	case t < time.Second:
		return fmt.Sprintf("%dms", t.Milliseconds())
	case t%time.Second == 0:
		return fmt.Sprintf("%ds", int(t.Seconds()))
	}
	return fmt.Sprintf("%.1fs", t.Seconds())
}

// roundStep returns the smallest of 1, 2, 5, 10, … milliseconds that divides total into at most
// count parts.
func roundStep(total time.Duration, count int) time.Duration {
	for unit := time.Millisecond; ; unit *= 10 {
		for _, n := range []time.Duration{1, 2, 5} {
			if total/(n*unit) <= time.Duration(count) {
				return n * unit
			}
		}
	}
}
