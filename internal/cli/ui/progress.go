package ui

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"banger/internal/step"
)

// Times and bounds of progress views. Operations that end sooner than the delays show nothing.
const (
	liveDelay  = 200 * time.Millisecond // from the first event to the first drawing on a terminal
	liveTick   = 100 * time.Millisecond // between two drawings
	plainDelay = 3 * time.Second        // from the first event to the first line elsewhere
	plainEvery = 10 * time.Second       // between two lines of a step that makes progress
	plainStill = time.Minute            // between two lines of a step that does not
	worthALine = time.Second            // a finished step of this length stays in view
	maxLines   = 8                      // of the live view
	maxTasks   = 256                    // steps kept at once; their names may come from a registry
)

// Progress shows the events of a long operation. On a terminal it redraws a few lines, which Close
// erases. Elsewhere it writes a plain line now and then. Its methods are safe for concurrent use.
type Progress struct {
	w      io.Writer
	live   bool
	width  func() int
	style  Style
	now    func() time.Time
	tick   time.Duration
	title  string
	mu     sync.Mutex
	begun  time.Time
	tasks  []*task
	drawn  int // number of our lines on the screen
	frame  int
	closed bool
	stop   chan struct{}
	idle   sync.WaitGroup
}

type task struct {
	step.Event
	began    time.Time // by our clock, which may differ from the daemon's
	finished time.Time // zero while the task runs
	written  time.Time // plain mode: when the last line was written
	lastLine string    // and the text of that line
}

// NewProgress returns a Progress on w. width is called for each drawing; 0 means that w is no
// terminal. title names the operation, such as "Pulling alpine:3".
func NewProgress(w io.Writer, width func() int, style Style, title string) *Progress {
	return &Progress{w: w, live: width() > 0, width: width, style: style, title: Clean(title), now: time.Now, tick: liveTick}
}

// Title changes the title.
func (p *Progress) Title(title string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.title = Clean(title)
}

// Report takes one event. It is a step.Reporter.
func (p *Progress) Report(e step.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	now := p.now()
	if p.begun.IsZero() {
		p.begun = now
		p.start()
	}
	p.take(e, now)
}

// start starts to draw at regular times. The caller holds mu.
func (p *Progress) start() {
	p.stop = make(chan struct{})
	p.idle.Add(1)
	go func(stop <-chan struct{}) {
		defer p.idle.Done()
		ticker := time.NewTicker(p.tick)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
				p.mu.Lock()
				p.draw()
				p.mu.Unlock()
			}
		}
	}(p.stop)
}

// take adds the event to its task. The caller holds mu.
func (p *Progress) take(e step.Event, now time.Time) {
	e.Step, e.Detail, e.Error, e.Unit = Clean(e.Step), Clean(e.Detail), Clean(e.Error), Clean(e.Unit)
	var t *task
	for _, known := range p.tasks {
		if known.Step == e.Step {
			t = known
		}
	}
	if t == nil {
		if len(p.tasks) >= maxTasks {
			p.tasks = p.tasks[1:]
		}
		t = &task{began: now}
		p.tasks = append(p.tasks, t)
	}
	if e.Phase == step.Started {
		t.began, t.finished = now, time.Time{}
	}
	if e.Detail == "" {
		e.Detail = t.Detail
	}
	if e.Phase != step.Started && e.Phase != step.Progress {
		t.finished = now
		e.Done, e.Total, e.Unit = t.Done, t.Total, t.Unit
	}
	t.Event = e
}

// Close stops the view and erases the live lines. It may be called more than once.
func (p *Progress) Close() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.closed = true
	if p.stop != nil {
		close(p.stop)
	}
	p.erase()
	p.mu.Unlock()
	p.idle.Wait()
}

// Elapsed is the time since the first event.
func (p *Progress) Elapsed() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.begun.IsZero() {
		return 0
	}
	return p.now().Sub(p.begun)
}

// erase removes the live lines. The caller holds mu.
func (p *Progress) erase() {
	if p.drawn > 0 {
		io.WriteString(p.w, home(p.drawn)+"\x1b[J")
		p.drawn = 0
	}
}

// home returns the control sequence that moves the cursor from below n lines to the start of the
// first.
func home(n int) string { return fmt.Sprintf("\r\x1b[%dA", n) }

// draw shows the present state. The caller holds mu.
func (p *Progress) draw() {
	if p.closed {
		return
	}
	if !p.live {
		p.plain()
		return
	}
	now := p.now()
	if now.Sub(p.begun) < liveDelay {
		return
	}
	width := p.width() - 1 // a full line would wrap on some terminals
	if width < 10 {
		return
	}
	p.frame++
	var b strings.Builder
	if p.drawn > 0 {
		b.WriteString(home(p.drawn))
	}
	lines := p.lines(now, width)
	for _, line := range lines {
		b.WriteString(line + "\x1b[K\n")
	}
	if len(lines) < p.drawn {
		b.WriteString("\x1b[J")
	}
	p.drawn = len(lines)
	io.WriteString(p.w, b.String())
}

// lines returns the live view: the title with the time so far, finished tasks that took long, and
// running tasks.
func (p *Progress) lines(now time.Time, width int) []string {
	var done, active []string
	nameWidth := 0
	for _, t := range p.tasks {
		if p.shown(t) {
			nameWidth = max(nameWidth, Width(label(t)))
		}
	}
	nameWidth = min(nameWidth, max(8, width/2))
	for _, t := range p.tasks {
		switch {
		case !p.shown(t):
		case t.finished.IsZero():
			active = append(active, p.activeLine(t, now, nameWidth, width))
		default:
			done = append(done, p.doneLine(t, nameWidth, width))
		}
	}
	room := maxLines - 1
	if len(active) > room {
		more := fmt.Sprintf("  and %d more", len(active)-room+1)
		active = append(active[:room-1], p.style.Dim(more))
	}
	if keep := room - len(active); len(done) > keep {
		done = done[len(done)-keep:]
	}
	spinner := []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")
	spent := Age(now.Sub(p.begun))
	head := p.style.Cyan(string(spinner[p.frame%len(spinner)])) + " " +
		p.style.Bold(Fit(p.title, width-len(spent)-4)) + "  " + p.style.Dim(spent)
	return append(append([]string{head}, done...), active...)
}

// shown reports whether the live view has a line for the task.
func (p *Progress) shown(t *task) bool {
	return t.finished.IsZero() || t.Phase == step.Failed || t.Phase == step.Stuck || t.finished.Sub(t.began) >= worthALine && !t.IsWait()
}

func (p *Progress) activeLine(t *task, now time.Time, nameWidth, width int) string {
	name := "  " + pad(Fit(label(t), nameWidth), nameWidth, false)
	amount, share := amount(t)
	tail := Age(now.Sub(t.began))
	if amount != "" {
		tail = amount + "  " + tail
	}
	room := width - Width(name) - 2 - len(tail) - 2
	if share >= 0 && room >= 12 {
		return name + gap + p.bar(share, min(room, 30)) + gap + p.style.Dim(tail)
	}
	return Fit(name, max(0, width-len(tail)-2)) + gap + p.style.Dim(tail)
}

func (p *Progress) doneLine(t *task, nameWidth, width int) string {
	mark, tail := p.style.Green("✓"), Duration(t.finished.Sub(t.began))
	switch t.Phase {
	case step.Failed, step.Stuck:
		mark, tail = p.style.Red("✗"), t.Error
	case step.Undone:
		mark, tail = p.style.Yellow("↺"), "undone"
	}
	name := pad(Fit(label(t), nameWidth), nameWidth, false)
	return mark + " " + name + gap + p.style.Dim(Fit(tail, max(0, width-Width(name)-4)))
}

// bar draws a share of width columns.
func (p *Progress) bar(share float64, width int) string {
	full := int(share * float64(width))
	return p.style.Cyan(strings.Repeat("━", full)) + p.style.Dim(strings.Repeat("─", width-full))
}

// plain writes a line for each long step that has something new. The caller holds mu.
func (p *Progress) plain() {
	now := p.now()
	for _, t := range p.tasks {
		if now.Sub(p.begun) < plainDelay && !t.IsWait() {
			continue
		}
		if line := t.plain(now); line != "" {
			fmt.Fprintf(p.w, "%s: %s\n", p.title, line)
		}
	}
}

// plain returns the line to write about a task now, or "".
func (t *task) plain(now time.Time) string {
	if !t.finished.IsZero() {
		if t.written.IsZero() || t.IsWait() {
			return ""
		}
		t.written = time.Time{}
		if t.Error != "" {
			return label(t) + " failed: " + t.Error
		}
		return label(t) + ": done in " + Duration(t.finished.Sub(t.began))
	}
	state := label(t)
	if amount, share := amount(t); share >= 0 {
		state += fmt.Sprintf(", %d%%", int(share*100))
	} else if amount != "" {
		state += ", " + amount
	}
	silence := plainEvery
	if state == t.lastLine {
		silence = plainStill
	}
	if now.Sub(t.began) < plainDelay && !t.IsWait() || now.Sub(t.written) < silence {
		return ""
	}
	t.written, t.lastLine = now, state
	return state + ", " + Age(now.Sub(t.began))
}

// label returns the name of a task: its step, with the step's detail.
func label(t *task) string {
	if t.Detail == "" || t.Detail == t.Step {
		return t.Step
	}
	return t.Step + ": " + t.Detail
}

// amount returns the progress of a task as text and as a share from 0 to 1. The share is -1 if the
// total is not known.
func amount(t *task) (string, float64) {
	share := -1.0
	if t.Total > 0 && t.Done >= 0 {
		share = min(1, float64(t.Done)/float64(t.Total))
	}
	count := func(n int64) string { return fmt.Sprint(n) }
	unit := ""
	if t.Unit == "bytes" {
		count = func(n int64) string { return size(n) }
	} else if t.Unit != "" {
		unit = " " + t.Unit
	}
	switch {
	case share >= 0:
		return fmt.Sprintf("%3d%%  %s/%s%s", int(share*100), count(t.Done), count(t.Total), unit), share
	case t.Done > 0:
		return count(t.Done) + unit, share
	}
	return "", share
}
